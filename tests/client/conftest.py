from tests.support.monitor_fixtures import client, path, qemu_client, vm

__all__ = ["client", "path", "qemu_client", "vm"]
