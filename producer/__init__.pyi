# The names that `producer` offers, as sortline/__init__.pyi lists those of `sortline`.

from producer.results import iter_results as iter_results
from producer.results import wait_for as wait_for
from producer.submit import Frame as Frame
from producer.submit import LineProducer as LineProducer
