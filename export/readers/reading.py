"""What the reading programs have in common: their arguments, the images, and what they write.

    python PROGRAM '{...}'            print as JSON what reads there (`version`, `machine`)
    python PROGRAM '{...}' FOLDER     read FOLDER/model.onnx, run FOLDER/images.npy (N, C, S, S) through it

The JSON object holds the program's options. FOLDER/job.json says the names of the model's input and output, how many
images it takes at once (`batch`), and whether that is open (`dynamic`). Written are FOLDER/outputs.npy (N, classes),
where it computes anything, FOLDER/compiled, where a compiler makes a file of its own, and FOLDER/result.json:
`fell_back` (left out where nobody looked), `size_bytes`, and `reason`, the words of whatever refused the model. What
isn't installed ends a program with the status NOT_INSTALLED and the line that installs it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_INSTALLED = 3
COMPILED = "compiled"  # the file that a compiler leaves
WORDS = 300  # characters of an error that are kept


class Job(NamedTuple):
    """What a program has to do. `images` and `keep` need numpy, which not every environment has."""

    folder: Path
    input: str
    output: str
    batch: int
    dynamic: bool
    options: dict[str, Any]

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"

    @property
    def compiled(self) -> Path:
        """Where a compiler leaves what it made."""
        return self.folder / COMPILED

    def images(self) -> NDArray[np.float32]:
        """All images (N, C, S, S)."""
        import numpy as np

        loaded: NDArray[np.float32] = np.load(self.folder / "images.npy", allow_pickle=False)
        return loaded

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The images in batches of the size that the model takes, the last one filled up with its last image."""
        import numpy as np

        images = self.images()
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            missing = self.batch - len(part)
            yield np.ascontiguousarray(np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]))

    def keep(self, outputs: list[Any]) -> None:
        """Write what was computed for each of `batches`."""
        import numpy as np

        together = np.concatenate([np.asarray(part, dtype=np.float32) for part in outputs])
        np.save(self.folder / "outputs.npy", together[: len(self.images())], allow_pickle=False)


def needed(module: str, packages: str) -> Any:
    """A module by name; where it is missing the program ends with the line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = f"{error.name or module} missing there; run there: {sys.executable} -m pip install {packages}"
        not_installed(missing if error.name else f"{module} does not load there: {error}")


def not_installed(words: str) -> Any:
    """End the program: what it needs is not there."""
    print(words, file=sys.stderr)
    sys.exit(NOT_INSTALLED)


def version_of(package: str) -> str:
    """The version of an installed package, or that it tells none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:WORDS] if lines else type(error).__name__


def main(version: Callable[[dict[str, Any]], str], read: Callable[[Job], dict[str, Any]]) -> None:
    """Do what the command line says; `read` returns what it knows of `fell_back` and `size_bytes`, and no more."""
    options = json.loads(sys.argv[1])
    described = {"version": version(options), "machine": platform.machine()}
    if len(sys.argv) == 2:
        print(json.dumps(described))
        return
    folder = Path(sys.argv[2])
    job = Job(folder=folder, options=options, **json.loads((folder / "job.json").read_text()))
    try:
        found = read(job)
    except Exception as error:  # as from any reader
        found = {"reason": first_line(error)}
    (folder / "result.json").write_text(json.dumps(found))
