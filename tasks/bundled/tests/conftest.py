"""Small made-up data in the shape of the real files, one folder a task."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest

COLUMNS = [
    *("PassengerId", "HomePlanet", "CryoSleep", "Cabin", "Destination", "Age", "VIP"),
    *("RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck", "Name"),
]


@pytest.fixture(autouse=True)
def _cache_of_its_own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("real"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def gpqa(tmp_path: Path) -> Path:
    """60 questions."""
    rows = [
        {
            "id": number,
            "domain": "Physics",
            "subdomain": "Optics",
            "Question": f"Which of four is number {number}, {random.Random(number).getrandbits(40)}?",
            "options": {letter: f"{letter} {number}" for letter in "ABCD"},
        }
        for number in range(1, 61)
    ]
    answers = [{**row, "correct_answer_letter": "ABCD"[number % 4]} for number, row in enumerate(rows)]
    name = "diamond_questions.json"
    return lay_out(tmp_path / "gpqa", {f"public/{name}": json.dumps(rows), f"private/{name}": json.dumps(answers)})


@pytest.fixture
def chess(tmp_path: Path) -> Path:
    """30 positions and 12 knights."""
    kinds = [*(("best_3_moves", n) for n in range(30)), *(("knight_path", n) for n in range(12))]
    rows = [
        {
            "question_id": f"{kind}_hard_{n}",
            "prompt": f"Solve {kind} {n} {random.Random(n).random()}.",
            "problem": {"template": kind},
        }
        for kind, n in kinds
    ]
    answers = {
        f"{kind}_hard_{n}": str(200 + n) if kind == "knight_path" else ["e4", "e5", f"N{n}"] for kind, n in kinds
    }
    return lay_out(
        tmp_path / "chess", {"public/chess_hard.json": json.dumps(rows), "private/answers.json": json.dumps(answers)}
    )


@pytest.fixture
def titanic(tmp_path: Path) -> Path:
    """400 labelled passengers and 60 others; who sleeps is transported, mostly."""
    rng = random.Random(0)

    def passenger(number: int) -> list[str]:
        sleeps = rng.random() < 0.5
        amounts = ["0.0" if sleeps else f"{rng.randrange(900)}.0" for _ in range(5)]
        planet, deck = rng.choice(["Earth", "Mars", "Europa", ""]), rng.choice("ABCDEFG")
        cabin = f"{deck}/{number}/{rng.choice('PS')}"
        return [
            f"{number:04}_01",
            planet,
            str(sleeps),
            cabin,
            "TRAPPIST-1e",
            "33.0",
            "False",
            *amounts,
            f"Name {number}",
        ]

    def labelled(rows: list[list[str]]) -> list[list[str]]:
        return [[*row, str((row[2] == "True") != (rng.random() < 0.1))] for row in rows]

    train, test = [passenger(n) for n in range(400)], [passenger(n) for n in range(400, 460)]
    return lay_out(
        tmp_path / "titanic",
        {
            "public/train.csv": as_csv([[*COLUMNS, "Transported"], *labelled(train)]),
            "public/test.csv": as_csv([COLUMNS, *test]),
            "private/test.csv": as_csv([[*COLUMNS, "Transported"], *labelled(test)]),
        },
    )


def as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
