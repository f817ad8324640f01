"""Calls that a worker must refuse: of other functions, and of `sort_image` with other arguments.

A call has RQ's form: function, instance, arguments, keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.jobs import SORT_IMAGE
from torture.forging.payloads.payload import MISSING, REFUSED, TRIPWIRE, Payload, Traps, packed

_TRIP = f"{TRIPWIRE}.trip"
_LOGGING = {"version": 1, "formatters": {"a": {"()": _TRIP}}}

# What leaves a line in the record if it runs; a test runs each of them.
TRAPS: Mapping[str, Callable[[Traps], list[object]]] = {
    "os.system": lambda traps: ["os.system", None, [traps.shell("os.system")], {}],
    "posix.system": lambda traps: ["posix.system", None, [traps.shell("posix.system")], {}],
    "os.popen": lambda traps: ["os.popen", None, [traps.shell("os.popen")], {}],
    "subprocess.run": lambda traps: ["subprocess.run", None, [traps.shell("run")], {"shell": True}],
    "subprocess.call": lambda traps: ["subprocess.call", None, [traps.shell("call")], {"shell": True}],
    "subprocess.check_output": lambda traps: ["subprocess.check_output", None, [["sh", "-c", traps.shell("out")]], {}],
    "subprocess.getoutput": lambda traps: ["subprocess.getoutput", None, [traps.shell("getoutput")], {}],
    "builtins.exec": lambda traps: ["builtins.exec", None, [traps.python("exec")], {}],
    "builtins.eval": lambda traps: ["builtins.eval", None, [traps.python("eval")], {}],
    "builtins.__import__": lambda traps: ["builtins.__import__", None, [TRIPWIRE], {}],
    "importlib.import_module": lambda traps: ["importlib.import_module", None, [TRIPWIRE], {}],
    "runpy.run_module": lambda traps: ["runpy.run_module", None, [TRIPWIRE], {}],
    "pydoc.locate": lambda traps: ["pydoc.locate", None, [TRIPWIRE], {}],
    "pkgutil.resolve_name": lambda traps: ["pkgutil.resolve_name", None, [f"{TRIPWIRE}:trip"], {}],
    "timeit.timeit": lambda traps: ["timeit.timeit", None, [traps.python("timeit")], {"number": 1}],
    "cProfile.run": lambda traps: ["cProfile.run", None, [traps.python("cProfile")], {}],
    "logging.config.dictConfig": lambda traps: ["logging.config.dictConfig", None, [_LOGGING], {}],
    "rq.utils.import_attribute": lambda traps: ["rq.utils.import_attribute", None, [_TRIP], {}],
    "the tripwire": lambda traps: [_TRIP, None, [], {}],
}
# What would end, stop or change the worker, or show itself as another's result.
_OTHER_FUNCTIONS: Mapping[str, tuple[object, ...]] = {
    "os._exit": (66,),
    "os.abort": (),
    "pty.spawn": (["true"],),
    TRIPWIRE: (),
    "sys.exit": (66,),
    "signal.raise_signal": (9,),
    "time.sleep": (3600,),
    "threading.Event.wait": (),
    "gc.disable": (),
    "builtins.open": ("/etc/passwd",),
    "builtins.print": ("forged",),
    "shutil.rmtree": ("/no/such/folder",),
    "socket.create_connection": (["127.0.0.1", 9],),
    "urllib.request.urlopen": ("http://127.0.0.1:9/",),
    "ctypes.string_at": (0,),
    "faulthandler._sigsegv": (),
    "redis.Redis.from_url": ("redis://127.0.0.1:9",),
    "rq.job.Job.fetch": ("other",),
    "rq.worker.Worker.work": (),
    "shared.settings.load_settings": (),
    "worker.tasks.use": (None, None),
    "worker.tasks._loaded_once": (),
    "worker.service.WorkerService": (None,),
}
# Names that some reader may take for that of our function.
_LOOKALIKES: tuple[object, ...] = (
    f"{SORT_IMAGE} ",
    f" {SORT_IMAGE}",
    f"{SORT_IMAGE}\0",
    f"{SORT_IMAGE}\n",
    SORT_IMAGE.upper(),
    SORT_IMAGE.replace("a", "а"),  # noqa: RUF001 - a Cyrillic letter
    SORT_IMAGE.replace(".", ":"),
    SORT_IMAGE.replace(".", ".."),
    f"{SORT_IMAGE}.__globals__",
    f"{SORT_IMAGE}.__call__",
    "worker.tasks",
    "tasks.sort_image",
    "sort_image",
    "__main__.sort_image",
    "",
    "f" * 50_000,
    None,
    7,
    [SORT_IMAGE],
    {"name": SORT_IMAGE},
)
# Our function, called as it never is.
_SHAPES: Mapping[str, object] = {
    "no argument": [SORT_IMAGE, None, [], {}],
    "two arguments": [SORT_IMAGE, None, [{}, {}], {}],
    "an empty ImageJob": [SORT_IMAGE, None, [{}], {}],
    "a text as ImageJob": [SORT_IMAGE, None, ["{}"], {}],
    "a number as ImageJob": [SORT_IMAGE, None, [66], {}],
    "null as ImageJob": [SORT_IMAGE, None, [None], {}],
    "a list as ImageJob": [SORT_IMAGE, None, [[{}]], {}],
    "arguments that are no list": [SORT_IMAGE, None, {"0": {}}, {}],
    "arguments that are a text": [SORT_IMAGE, None, "{}", {}],
    "a keyword": [SORT_IMAGE, None, [], {"job": {}}],
    "another keyword": [SORT_IMAGE, None, [{}], {"connection": "redis://127.0.0.1:9"}],
    "keywords that are a list": [SORT_IMAGE, None, [{}], [1]],
    "an instance": [SORT_IMAGE, "posix.system", [{}], {}],
    "an instance that is an object": [SORT_IMAGE, {"__class__": "os"}, [{}], {}],
    "a method": ["system", "os", ["true"], {}],
    "three parts": [SORT_IMAGE, None, [{}]],
    "five parts": [SORT_IMAGE, None, [{}], {}, {}],
    "no parts": [],
    "nested": [[SORT_IMAGE, None, [{}], {}]],
    "an object": {"func_name": SORT_IMAGE, "args": [{}]},
    "a text": SORT_IMAGE,
    "a number": 1,
    "null": None,
    "true": True,
}
# Without one of its fields, a valid ImageJob is none. (`schema_version` and the others have defaults.)
_NEEDED = ("job_id", "line", "camera", "captured_at", "queue", "image_key", "sha256", "content_type")


def _refused(call: object) -> Payload:
    return Payload(outcomes=REFUSED, data=lambda traps: packed(call))


def _trap(make: Callable[[Traps], list[object]]) -> Payload:
    return Payload(outcomes=REFUSED, data=lambda traps: packed(make(traps)))


def _without(field: str) -> Payload:
    return Payload(outcomes=REFUSED, call=lambda: {field: MISSING})


CALLS: Mapping[str, Payload] = {
    **{f"runs {name}": _trap(make) for name, make in TRAPS.items()},
    **{f"calls {name}": _refused([name, None, list(arguments), {}]) for name, arguments in _OTHER_FUNCTIONS.items()},
    **{
        f"calls {str(function)[:40]!a}, {type(function).__name__}": _refused([function, None, [{}], {}])
        for function in _LOOKALIKES
    },
    **{f"called with {name}": _refused(call) for name, call in _SHAPES.items()},
    **{f"without {field}": _without(field) for field in _NEEDED},
}
