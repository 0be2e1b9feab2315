"""A small task folder in the released SIA's format: which of two numbers is larger?"""

from __future__ import annotations

import json
import random
from pathlib import Path

EVALUATE = '''
"""Scores answers.json by the answers of the private data, as the released scripts do."""
import argparse, json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=Path, required=True)
folder = parser.parse_args().gen_dir
truth = json.loads((Path(__file__).resolve().parent.parent / "private" / "answers.json").read_text())
said = json.loads((folder / "answers.json").read_text())
right = sum(said.get(name) == answer for name, answer in truth.items())
print("right:", right)
(folder / "results.json").write_text(json.dumps({"accuracy": right / len(truth), "questions": len(truth)}))
'''

AGENT = '''
"""The reference agent: says always that the first is larger."""
import argparse, json, os

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", required=True)
parser.add_argument("--working_dir", required=True)
options = parser.parse_args()
with open(os.path.join(options.dataset_dir, "questions.json")) as file:
    questions = json.load(file)
answers = {}
for question in questions:
    a, b = question["numbers"]
    answers[question["question_id"]] = "first"
with open(os.path.join(options.working_dir, "answers.json"), "w") as file:
    json.dump(answers, file)
print(len(answers), "answered")
'''

PLAYBOOK = """
[[edit]]
name = "compare"
summary = "compare the numbers"
[[edit.change]]
op = "replace"
path = "target_agent.py"
old = '= "first"'
new = '= "first" if a > b else "second"'
"""


def task_folder(folder: Path, *, size: int = 96, evaluate: str = EVALUATE, agent: str = AGENT) -> Path:
    """Write the folder; returns it."""
    rng = random.Random(0)
    pairs = {f"question_{number}": rng.sample(range(1000), 2) for number in range(size)}
    questions = [{"question_id": name, "numbers": pair} for name, pair in pairs.items()]
    answers = {name: "first" if a > b else "second" for name, (a, b) in pairs.items()}
    files = {
        "data/public/task.md": "Which number is larger? Write answers.json: from question_id to first or second.",
        "data/public/questions.json": json.dumps(questions),
        "data/public/examples.csv": "id,numbers,answer\nexample,1 2,second\n",
        "data/public/evaluate.py": evaluate,
        "data/private/answers.json": json.dumps(answers),
        "reference/reference_target_agent.py": agent,
        "reference/SAMPLE_TASK_DESCRIPTIONS.md": "",
        "playbook.toml": PLAYBOOK,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
