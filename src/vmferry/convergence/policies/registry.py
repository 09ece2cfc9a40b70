"""The policies there are: those that come along, those that are installed, and those in files of their users.

A policy is named `NAME`, `MODULE:CLASS` or `PATH.py:CLASS`. Names are those of `BUILT_IN` and of the entry points in
the group `vmferry.policies`. Who names a file or a module runs its code, so names that come over a monitor are looked
up only among what is there already (`find_policy`).

Files of one name may differ, and may be edited, so a policy in a file goes by `FILE.py:CLASS@DIGEST` too.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from vmferry.convergence.policies.auto_converge import AutoConverge
from vmferry.convergence.policies.kubevirt import KubeVirt
from vmferry.convergence.policies.nova import Nova
from vmferry.convergence.policies.ovirt import OVirt
from vmferry.convergence.policies.pause_resume import PauseResume
from vmferry.convergence.policies.planned import Planned
from vmferry.convergence.policies.policy import Policy
from vmferry.convergence.policies.proxmox import Proxmox
from vmferry.convergence.sensing import Body
from vmferry.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "vmferry.policies"
MAX_FILE_BYTES = 1 << 20
DIGEST_CHARACTERS = 8
"""How many characters of a digest people are shown."""

BUILT_IN: dict[str, type[Policy]] = {
    "auto-converge": AutoConverge,
    "planned": Planned,
    "kubevirt": KubeVirt,
    "ovirt": OVirt,
    "nova": Nova,
    "proxmox": Proxmox,
    "pause-resume": PauseResume,
}


class PolicySource(msgspec.Struct, frozen=True):
    """The text of a policy's file, which goes wherever the policy has to run."""

    name: str
    """How users name it, such as `mine.py:Mine`."""
    text: str


@dataclass(frozen=True)
class PolicyKind:
    """A policy that can be made."""

    name: str
    make: Callable[[], Policy]
    settings_type: type[msgspec.Struct]
    needs: Body
    digest: str
    """A digest of its source, so that an edited policy is not taken for the same."""
    source: PolicySource | None = None
    """Where it is in a file of its own."""
    plans: bool = False
    """True if it looks ahead: it wants to know how the guest writes before anything moves, and tells what helps."""

    @property
    def reference(self) -> str:
        """The name by which this policy is found, and no other."""
        return _reference(self.name, self.digest) if self.source else self.name

    def require(self, body: Body) -> None:
        """Raise UsageError if it needs what a body cannot do."""
        if missing := self.needs & ~body:
            names = ", ".join(str(flag.name).lower() for flag in missing)
            raise UsageError(f"the policy '{self.name}' cannot be used here: it needs {names}")

    def settings(self, text: str, parameters: Mapping[str, object]) -> msgspec.Struct:
        """Return its settings: those in `text`, written `a=1,b=2`, and those that migration parameters give.

        `parameters` go by their Python names. Raises UsageError that names the value and what is allowed.
        """
        fields = msgspec.structs.fields(self.settings_type)
        given = {field.name: parameters[field.name] for field in fields if field.name in parameters}
        own = [field.encode_name for field in fields if field.name not in parameters]
        for entry in filter(None, text.split(",")):
            name, separator, value = entry.partition("=")
            if not separator or name not in own:
                raise UsageError(f"policy '{self.name}' has no setting '{name}'; {_allowed(name, own, given)}")
            given[name] = value
        try:
            return msgspec.convert(given, self.settings_type, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"policy '{self.name}': {error}") from error
        except Exception as error:  # of the policy's own checks
            raise UsageError(f"policy '{self.name}': its settings fail with {error!r}") from error


def _allowed(name: str, own: Sequence[str], parameters: Mapping[str, object]) -> str:
    if name.replace("-", "_") in parameters:
        return f"it obeys the migration parameter {name.replace('_', '-')}, which is set as such"
    return f"there are: {', '.join(own)}" if own else "it has none"


_loaded: dict[str, PolicyKind] = {}
"""The policies in files and modules by name and by reference. A name that several have is the last one's."""


def find_policy(name: str) -> PolicyKind:
    """Return a policy that is there by that name. Raises UsageError, which names those that are."""
    if name in _loaded:
        return _loaded[name]
    if name in BUILT_IN:
        return _kind(name, BUILT_IN[name])
    installed = _installed()
    if name in installed:
        return _loaded.setdefault(name, _kind(name, _load(name, installed[name].load)))
    same, _, digest = name.partition("@")
    if digest and same in _loaded:
        here = _loaded[same].digest[:DIGEST_CHARACTERS]
        raise UsageError(f"the policy '{same}' that is known here is of digest {here}, not {digest}; was it edited?")
    remedy = "one of your own is FILE.py:CLASS or MODULE:CLASS, which a VM learns by: vmferry vm --policy"
    raise UsageError(f"no convergence policy '{same}'; there are: {', '.join(known_names())}; {remedy}")


def known_names() -> list[str]:
    """Return the names of the policies that are there."""
    return sorted({*BUILT_IN, *_installed(), *(kind.name for kind in _loaded.values())})


def _installed() -> dict[str, "EntryPoint"]:
    """Return the policies that other packages bring, which is much to load where nobody asks for one."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def load_policy(name: str, directory: Path = Path()) -> PolicyKind:
    """Return the policy that a user names, which may be in a file or a module. Raises UsageError.

    A relative path of a file is one below `directory`.
    """
    place, separator, class_name = name.rpartition(":")
    if name.endswith(".py"):
        raise UsageError(f"the policy '{name}' is a file without a class; write {name}:CLASS")
    if not separator or "@" in class_name:
        return find_policy(name)
    if place.endswith(".py"):
        return load_source(PolicySource(_file_name(name), _read(directory / place)))
    module = _load(name, lambda: import_module(place))
    return _remember(_kind(name, _class_in(module, class_name, name)))


def registered_name(name: str) -> str:
    """Return by which name another process finds the policy that a user names; nothing is loaded here.

    One in a file goes without directories, and with the digest of the file if that is here. Raises UsageError.
    """
    place = Path(name.rpartition(":")[0])
    if place.suffix != ".py" or "@" in name:
        return name
    return _reference(_file_name(name), _digest_of(_read(place))) if place.exists() else _file_name(name)


def _file_name(name: str) -> str:
    place, _, class_name = name.rpartition(":")
    return f"{Path(place).name}:{class_name}"


def load_source(source: PolicySource) -> PolicyKind:
    """Return the policy in the text of a file, and remember it by its name. Raises UsageError."""
    reference = _reference(source.name, _digest_of(source.text))
    known = _loaded.get(reference)
    if known:
        return _remember(known)
    file_name, _, class_name = source.name.rpartition(":")
    # Classes look their module up there to resolve annotations; the name is no other module's.
    module = sys.modules[reference] = ModuleType(reference)
    module.__file__ = file_name
    try:
        _load(source.name, lambda: exec(compile(source.text, file_name, "exec"), module.__dict__))
        return _remember(_kind(source.name, _class_in(module, class_name, source.name), source))
    except UsageError:
        del sys.modules[reference]
        raise


def _reference(name: str, digest: str) -> str:
    return f"{name}@{digest[:DIGEST_CHARACTERS]}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{path}: no policy, it is larger than {MAX_FILE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise UsageError(f"cannot read the policy {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no policy, it is no text in UTF-8") from error


def _load(name: str, load: Callable[[], Any]) -> Any:
    """Run somebody's code, whose errors are told in one line."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"cannot load the policy '{name}': {error!r}") from error


def _class_in(module: ModuleType, class_name: str, name: str) -> type[Policy]:
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and hasattr(value, "look")]
        there_are = f"; its policies are: {', '.join(classes)}" if classes else ""
        raise UsageError(f"there is no class '{class_name}' in the policy '{name}'{there_are}")
    return kind


def _kind(name: str, kind: type[Policy], source: PolicySource | None = None) -> PolicyKind:
    settings_type = getattr(kind, "Settings", None)
    if not callable(getattr(kind, "look", None)):
        raise UsageError(f"the class of policy '{name}' has no method look(view, settings)")
    if not (isinstance(settings_type, type) and issubclass(settings_type, msgspec.Struct)):
        raise UsageError(f"the class of policy '{name}' needs Settings, a msgspec.Struct")
    needs = getattr(kind, "needs", None)
    if not isinstance(needs, Body):
        raise UsageError(f"the class of policy '{name}' needs `needs`, what a body has to be able to do")
    plans = bool(getattr(kind, "plans", False))
    return PolicyKind(name, kind, settings_type, needs, _digest(kind, source), source, plans)


def _digest(kind: type, source: PolicySource | None) -> str:
    """Return a digest of its module's text, or of its name if it was typed in and there is nothing else."""
    try:
        text = source.text if source else inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        text = f"{kind.__module__}.{kind.__qualname__}"
    return _digest_of(text)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _remember(kind: PolicyKind) -> PolicyKind:
    _loaded[kind.name] = _loaded[kind.reference] = kind
    return kind
