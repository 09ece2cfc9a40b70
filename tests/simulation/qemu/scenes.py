"""Scenarios for modelled QEMUs."""

from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import parse_scenario


def scenario(
    memory: str = "192M", load: str = "96M", rate: str = "1GB/s", link: str = "1GiB/s", more: str = ""
) -> Experiment:
    """A guest that walks its memory."""
    text = f"""
name = "modelled"
[guest]
memory = "{memory}"
vcpus = 1
[[guest.loads]]
pattern = "sweep"
memory = "{load}"
write-rate = "{rate}"
[link]
rate = "{link}"
{more}
"""
    return parse_scenario(text.encode(), "modelled")


BUSY = scenario()
