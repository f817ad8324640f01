# The names that `producer` offers; see sortline/__init__.pyi.

from producer.frames import Frame as Frame
from producer.results import iter_results as iter_results, wait_for as wait_for
from producer.submit import LineProducer as LineProducer
