"""Plugin loader: files, package folders and installed packages that register sinks and sources.

The built-in ones are loaded like a user's file. Two loads share nothing: each makes its own
`Registry`, and imports the modules again.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from pydantic.errors import PydanticUndefinedAnnotation

import relay
from relay.config.model import DEFAULT_SOURCE
from relay.config.timelimit import IMPORT, TookTooLong, limited
from relay.sink import Options, Sink
from relay.source import Source
from relay.suggest import nearest

PROJECT = "relay"
NAME = re.compile(r"[A-Za-z0-9_-]+")
METHODS = {
    "send": ("delivery",),
    "send_batch": ("deliveries",),
    "open": (),
    "close": (),
    "check": (),
    "setup": ("*", "backfill", "progress"),
    "erase": ("matcher", "ids"),
}
"""What a sink may override, and what each is called with."""
SOURCE_METHODS = {
    "verify": ("request",),
    "split": ("callback",),
    "parse": ("callback",),
    "answer": ("results",),
    "refusal": ("status", "detail"),
    "sample": ("kind", "number", "values", "url"),
}
"""The same of a source."""
HOW_TO = "write: @relay.hookimpl, then def register_sinks(register), which calls register(…)"

hookspec = pluggy.HookspecMarker(PROJECT)


class Hooks:
    """What a plugin can hook into."""

    @hookspec(historic=True)
    def register_sinks(self, register: Callable[[str, type[Sink]], None]) -> None:
        """Call `register(name, sink_class)` for each sink that the plugin brings."""

    @hookspec(historic=True)
    def register_sources(self, register: Callable[[str, type[Source]], None]) -> None:
        """Call `register(name, source_class)` for each source that the plugin brings."""


class PluginError(Exception):
    """A plugin does not load. `line` is that of the failing statement, where there is one."""

    def __init__(self, path: str, line: int | None, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")
        self.path = path
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class RegisteredSink:
    """`origin` is the file that registered it, or the name of the installed package."""

    name: str
    sink_class: type[Sink]
    origin: str


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """`origin` is as in RegisteredSink."""

    name: str
    source_class: type[Source]
    origin: str


@dataclass(slots=True)
class Registry:
    """What can be used, by the name for `plugin:`; and what did not load."""

    sinks: dict[str, RegisteredSink] = field(default_factory=dict)
    sources: dict[str, RegisteredSource] = field(default_factory=dict)
    errors: list[PluginError] = field(default_factory=list)

    def broken(self) -> dict[str, str]:
        """The plugins that did not load, by the names of their files, with the reason."""
        return {plugin_name(Path(error.path)): str(error) for error in self.errors}


def builtin_folder() -> Path:
    """Where the built-in plugins lie: inside an installed wheel, or beside the package."""
    package = Path(relay.__file__).resolve().parent
    shipped = package / "builtin"
    return shipped if shipped.is_dir() else package.parent / "plugins"


def load(folders: Sequence[Path]) -> Registry:
    """Load the built-in plugins, the installed ones and those in the folders.

    Never raises for what a plugin does: see `Registry.errors`.
    """
    loader = _PluginLoader()
    for path in chosen_files([builtin_folder(), *folders], loader.registry.errors):
        loader.load_file(path)
    for entry_point in sorted(entry_points(group=PROJECT)):
        loader.load_entry_point(entry_point)
    loader.load_default_source()
    return loader.registry


def chosen_files(folders: Sequence[Path], errors: list[PluginError]) -> list[Path]:
    """Each folder's plugins in their order; a later one replaces one of the same name."""
    chosen: dict[str, Path] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        in_this: dict[str, Path] = {}
        for path in plugin_files(folder):
            if other := in_this.get(plugin_name(path)):
                errors.append(
                    PluginError(str(path), None, f"has the name of {other.name} beside it")
                )
                continue
            in_this[plugin_name(path)] = path
        chosen |= in_this
    return list(chosen.values())


def plugin_files(folder: Path) -> Iterator[Path]:
    """The plugins in a folder: `name.py`, or `name/__init__.py`. Others are helpers or hidden."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py" and path.is_file():
            yield path
        elif (path / "__init__.py").is_file():
            yield path / "__init__.py"


def plugin_name(path: Path) -> str:
    """`ntfy` for ntfy.py and for ntfy/__init__.py."""
    return path.parent.name if is_package(path) else path.stem


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


class _PluginLoader:
    """Fills a registry, one plugin at a time."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(Hooks)
        # Historic: every plugin that is registered from now on is called with this.
        hook = self.manager.hook
        hook.register_sinks.call_historic(kwargs={"register": self._register_sink})
        hook.register_sources.call_historic(kwargs={"register": self._register_source})
        self.origin = ""

    def load_file(self, path: Path) -> None:
        self._load(str(path), path, lambda: import_file(path))

    def load_entry_point(self, entry_point: EntryPoint) -> None:
        package = entry_point.dist.name if entry_point.dist else entry_point.value
        spec = importlib.util.find_spec(entry_point.module.partition(".")[0])
        path = Path(spec.origin) if spec and spec.origin else None
        self._load(package, path, entry_point.load)

    def load_default_source(self) -> None:
        """Load the built-in file of the default source, unless something registers that name.

        A user's file of the same name takes the built-in one's place; before the source was a
        plugin, such a file took nobody's.
        """
        path = builtin_folder() / f"{DEFAULT_SOURCE}.py"
        if DEFAULT_SOURCE not in self.registry.sources and not self.manager.has_plugin(str(path)):
            self.load_file(path)

    def _load(self, origin: str, path: Path | None, import_plugin: Callable[[], Any]) -> None:
        self.origin = origin
        try:
            with limited(f"the import of the plugin {path or origin}", IMPORT):
                plugin = import_plugin()
                check_hooks(self.manager, plugin, origin)
                self.manager.register(plugin, origin)
        except PluginError as error:
            self.registry.errors.append(error)
        except KeyboardInterrupt:  # Ctrl-C, while it is imported
            raise
        except BaseException as error:  # noqa: BLE001  a plugin can raise anything
            self.registry.errors.append(blame(error, origin, path))

    def _register_sink(self, name: str, sink_class: type[Sink]) -> None:
        check_name(name, self.registry.sinks)
        check_sink_class(sink_class)
        self.registry.sinks[name] = RegisteredSink(name, sink_class, self.origin)

    def _register_source(self, name: str, source_class: type[Source]) -> None:
        check_name(name, self.registry.sources)
        check_source_class(source_class)
        self.registry.sources[name] = RegisteredSource(name, source_class, self.origin)


class _Unusable(Exception):
    """`register` was called with something that cannot be used; the message says why."""


def import_file(path: Path) -> ModuleType:
    """Import a file under a unique name, so that it shadows no other module.

    The module is put into sys.modules, where dataclasses and relative imports look for it; its
    folder is not put on sys.path.
    """
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"relay_plugin_{digest}_{plugin_name(path)}"
    forget(name)
    locations = [str(path.parent)] if is_package(path) else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        forget(name)
        raise
    return module


def forget(name: str) -> None:
    """Remove a module and its submodules from sys.modules."""
    for known in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[known]


def check_hooks(manager: pluggy.PluginManager, plugin: Any, origin: str) -> None:
    """Refuse a plugin without hooks, or with an unknown one, which pluggy would ignore."""
    hooks = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
    if not hooks:
        raise PluginError(origin, None, f"has no hook; {HOW_TO}")
    for name in hooks:
        function = getattr(plugin, name)
        line = inspect.unwrap(function).__code__.co_firstlineno
        if not hasattr(Hooks, name):
            match = nearest(name, ["register_sinks", "register_sources"])
            hint = f'; did you mean "{match}"?' if match else f"; {HOW_TO}"
            raise PluginError(origin, line, f'there is no hook "{name}"{hint}')
        if inspect.iscoroutinefunction(function):
            raise PluginError(origin, line, f"{name} should be a plain def: it only registers")
        if not {*inspect.signature(function).parameters} <= {"register"}:
            raise PluginError(origin, line, f"{name} should have one parameter, named register")


def check_name(name: Any, registered: Mapping[str, RegisteredSink | RegisteredSource]) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _Unusable("the first argument of register should be a name of letters, digits, _, -")
    if earlier := registered.get(name):
        raise _Unusable(f'the name "{name}" is already registered by {earlier.origin}')


def check_sink_class(sink_class: Any) -> None:
    """Refuse what would fail at the first delivery."""
    if not is_a(sink_class, Sink):
        raise _Unusable("the second argument of register should be a class that is a relay.Sink")
    name = sink_class.__name__
    own = [method for method in ("send", "send_batch") if overrides(sink_class, method)]
    if not own:
        raise _Unusable(f"{name} should override send or send_batch")
    for method, parameters in METHODS.items():
        if not inspect.iscoroutinefunction(getattr(sink_class, method)):
            raise _Unusable(f"{name}.{method} should be an async def")
        if not _takes(sink_class, method, parameters):
            wanted = ", ".join(["self", *parameters])
            raise _Unusable(f"{name}.{method} should be: async def {method}({wanted})")
    _check_options(sink_class)
    most: Any = sink_class.max_batch
    if not isinstance(most, int) or most < 1:
        raise _Unusable(f"{name}.max_batch should be a whole number from 1")
    if most > 1 and "send_batch" not in own:
        raise _Unusable(f"{name}.max_batch is above 1, so it should override send_batch")


def check_source_class(source_class: Any) -> None:
    """Refuse what would fail at the first callback."""
    if not is_a(source_class, Source):
        raise _Unusable("the second argument of register should be a class that is a relay.Source")
    name = source_class.__name__
    if source_class.parse is Source.parse:
        raise _Unusable(f"{name} should override parse")
    if source_class.authenticates and source_class.verify is Source.verify:
        raise _Unusable(f"{name} should override verify, as authenticates is True")
    for method, parameters in SOURCE_METHODS.items():
        function = getattr(source_class, method)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise _Unusable(f"{name}.{method} should be a plain def: nothing awaits it")
        if not _takes(source_class, method, parameters):
            wanted = ", ".join(["self", *parameters])
            raise _Unusable(f"{name}.{method} should be: def {method}({wanted})")
    _check_options(source_class)
    kinds: Any = source_class.kinds
    if not isinstance(kinds, tuple) or not all(isinstance(kind, str) for kind in kinds):
        raise _Unusable(f'{name}.kinds should be a tuple of texts, as in ("message",)')


def _check_options(plugin_class: type[Sink | Source]) -> None:
    name = plugin_class.__name__
    if not is_a(plugin_class.Options, Options):
        raise _Unusable(f"{name}.Options should be a class that is a relay.Options")
    try:
        plugin_class.Options.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        raise _Unusable(
            f'{name}.Options names the type "{error.name}", which is not there'
        ) from None


def _takes(plugin_class: type[Sink | Source], method: str, parameters: tuple[str, ...]) -> bool:
    """Whether the method can be called as the relay does: by place, and after `*` by name."""
    given = parameters[: parameters.index("*")] if "*" in parameters else parameters
    named = parameters[len(given) + 1 :]
    bound = inspect.getattr_static(plugin_class, method).__get__(object(), plugin_class)
    try:
        inspect.signature(bound).bind(*given, **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def is_a(value: Any, parent: type) -> bool:
    return isinstance(value, type) and issubclass(value, parent)


def overrides(sink_class: type[Sink], method: str) -> bool:
    return getattr(sink_class, method) is not getattr(Sink, method)


def source_file(plugin_class: type[Sink | Source]) -> str:
    """The file of a plugin's class, as far as it is known."""
    name = plugin_class.__module__
    return getattr(sys.modules.get(name), "__file__", None) or name


def blame(error: BaseException, origin: str, path: Path | None) -> PluginError:
    """The error of a plugin, at the line of the plugin that it came from."""
    message = _told(error)
    if isinstance(error, SyntaxError) and error.filename:
        return PluginError(error.filename, error.lineno, f"{type(error).__name__}: {error.msg}")
    own = path.parent if path and is_package(path) else path
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if own and Path(frame.filename).is_relative_to(own):
            return PluginError(frame.filename, frame.lineno, message)
    return PluginError(origin, None, message)


def _told(error: BaseException) -> str:
    if isinstance(error, _Unusable):
        return str(error)
    if isinstance(error, SystemExit):
        return "ends the process when imported"
    if isinstance(error, TookTooLong):
        return str(error)
    return f"{type(error).__name__}: {error}"
