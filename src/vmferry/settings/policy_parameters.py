"""The migration parameters that make up a policy with its settings."""

from collections.abc import Mapping

import msgspec

from vmferry.convergence.policies.registry import PolicyKind
from vmferry.convergence.variants import POLICY, POLICY_SETTINGS, VARIANT_PARAMETERS, label_of
from vmferry.errors import UsageError
from vmferry.settings.parameters import PARAMETERS, MigrationParameters


def policy_parameters(kind: PolicyKind, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters by their QMP names. Those settings which are parameters themselves are set as such.

    The values may be texts. Raises UsageError for a setting that cannot be written as a parameter's text; whether the
    policy has it and can have the value is seen when the parameters are set.
    """
    own: dict[str, object] = {}
    parameters: dict[str, object] = {}
    obeyed = {field.name.replace("_", "-") for field in msgspec.structs.fields(kind.settings_type)} & PARAMETERS.keys()
    for name, value in settings.items():
        if (parameter := name.replace("_", "-")) in obeyed:
            parameters[parameter] = plain_value(value) if isinstance(value, str) else value
        else:
            own[name] = value
    return {**parameters, POLICY: kind.reference, POLICY_SETTINGS: settings_text(own)}


def policy_label(parameters: Mapping[str, object], digest: str | None) -> str:
    """Return what tells a policy, as `policy_parameters` has it, from others; `digest` is that of its source."""
    label = label_of({**MigrationParameters().as_qmp(), **parameters}, digest)
    return " ".join([label, *(f"{name}={parameters[name]}" for name in parameters if name not in VARIANT_PARAMETERS)])


def settings_text(settings: Mapping[str, object]) -> str:
    """Return settings as the parameter has them. Raises UsageError for one with a comma in it."""
    entries = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    for entry in entries:
        if "," in entry:
            raise UsageError(f"the setting '{entry}' of a policy has a comma in it, which separates settings")
    return ",".join(entries)


def plain_value(text: str) -> int | bool | str:
    """Return what a parameter's value is when it is written without quotes."""
    try:
        return msgspec.json.decode(text, type=int | bool)
    except msgspec.DecodeError:
        return text
