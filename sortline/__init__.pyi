# The only list of the public names. Type checkers read this file directly; `__init__.py` reads it when the package is
# imported. In a stub, `as` with the same name makes an imported name public.

from producer.frames import Frame as Frame, PreparedJob as PreparedJob
from producer.results import Answer as Answer, iter_results as iter_results, wait_for as wait_for
from producer.streams.group_reader import ResultGroupReader as ResultGroupReader
from producer.streams.notices import Notice as Notice, NoticeKind as NoticeKind
from producer.streams.reader import ResultReader as ResultReader
from producer.submit import LineProducer as LineProducer
from shared.errors import (
    BadImage as BadImage,
    BadInput as BadInput,
    BadJob as BadJob,
    BadSetting as BadSetting,
    Bound as Bound,
    CommandRefused as CommandRefused,
    NotFound as NotFound,
    QueueFull as QueueFull,
    RedisUnavailable as RedisUnavailable,
    ResultGone as ResultGone,
    ResultTimeout as ResultTimeout,
    SortlineError as SortlineError,
    Transient as Transient,
)
from shared.schemas import (
    ImageJob as ImageJob,
    Label as Label,
    ModelRef as ModelRef,
    Outcome as Outcome,
    SortResult as SortResult,
    Timings as Timings,
)
from shared.settings import Settings as Settings, load_settings as load_settings
