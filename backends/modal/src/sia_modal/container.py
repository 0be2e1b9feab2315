"""The class that Modal starts in a container. Its annotations are values, as Modal reads the parameters' types."""

from pathlib import Path

import modal

from sia_modal.work import Work

BLOBS = Path("/sia/blobs")
"""Where the volume of uploads is mounted."""

BLOBS_VOLUME = "sia-blobs"


class Container:
    """Methods of :class:`sia_modal.work.Work`, for Modal."""

    allow: str = modal.parameter(default="*")

    @modal.enter()
    def enter(self) -> None:
        self._work = Work(_uploaded, None if self.allow == "*" else self.allow)

    @modal.method()
    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        return self._work.run(parcel)

    @modal.exit()
    def leave(self) -> None:
        self._work.stop()


def place(digest: str) -> str:
    """Of an upload in its volume."""
    return f"/{digest[:2]}/{digest}"


def _uploaded(digest: str) -> bytes:
    path = BLOBS / place(digest).lstrip("/")
    if not path.exists():
        modal.Volume.from_name(BLOBS_VOLUME).reload()  # it came after this container was started
    return path.read_bytes()
