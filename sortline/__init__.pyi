# The public names: the only list of them. A type checker reads it as it is, and `__init__.py` when it runs.
# A name is public to a type checker if it is imported as itself.

from producer.results import Answer as Answer
from producer.results import iter_results as iter_results
from producer.results import wait_for as wait_for
from producer.submit import Frame as Frame
from producer.submit import LineProducer as LineProducer
from producer.submit import PreparedJob as PreparedJob
from shared.errors import (
    BadImage as BadImage,
)
from shared.errors import (
    BadInput as BadInput,
)
from shared.errors import (
    BadJob as BadJob,
)
from shared.errors import (
    BadSetting as BadSetting,
)
from shared.errors import (
    CommandRefused as CommandRefused,
)
from shared.errors import (
    NotFound as NotFound,
)
from shared.errors import (
    QueueFull as QueueFull,
)
from shared.errors import (
    RedisUnavailable as RedisUnavailable,
)
from shared.errors import (
    ResultGone as ResultGone,
)
from shared.errors import (
    ResultTimeout as ResultTimeout,
)
from shared.errors import (
    SortlineError as SortlineError,
)
from shared.errors import (
    Transient as Transient,
)
from shared.schemas import (
    ImageJob as ImageJob,
)
from shared.schemas import (
    Label as Label,
)
from shared.schemas import (
    ModelRef as ModelRef,
)
from shared.schemas import (
    Outcome as Outcome,
)
from shared.schemas import (
    SortResult as SortResult,
)
from shared.schemas import (
    Timings as Timings,
)
from shared.settings import Settings as Settings
from shared.settings import load_settings as load_settings
