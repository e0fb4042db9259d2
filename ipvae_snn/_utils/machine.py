"""What this machine is."""

import platform


def processor() -> str:
    """Its name, as the system gives it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, IndexError, StopIteration):
        return platform.processor() or platform.machine()
