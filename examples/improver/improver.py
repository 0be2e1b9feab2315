"""An improver without a model, for the example of sums: it shows what a program does with the folder that it is given.

    sia run --harness examples/sums/agent --data examples/sums/cases.jsonl --verifier exact \\
        --improver "command:python3 $PWD/examples/improver/improver.py"

A coding agent stands in its place with a command line such as ``command:claude -p 'Do what README.md asks'``.
"""

import json
import subprocess
from pathlib import Path

OPERATIONS = {"minus": "-", "times": "*"}
LAST = "    return None"


def main() -> None:
    evidence = json.loads(Path("evidence.json").read_text())
    tried = {trial["name"] for trial in evidence["trials"]}
    name = next((name for name in OPERATIONS if name not in tried), None)
    if name is None:
        decide({"lever": "stop", "reason": "every operation was tried"})
        return
    harness = Path("working-1/harness.py")
    new = f'    if operation == "{name}":\n        return a {OPERATIONS[name]} b\n{LAST}'
    harness.write_text(harness.read_text().replace(LAST, new))
    print(subprocess.run(["./check", "working-1"], capture_output=True, text=True, check=True).stdout)
    failed = sum(name in line for line in rollouts(evidence["incumbent"]))
    reason = f"{failed} search instances on which the incumbent failed say {name}"
    prediction = {"gain": 0.3, "where": f"sums that say {name}"}
    decide({"lever": "harness", "folder": "working-1", "name": name, "reason": reason, "prediction": prediction})


def rollouts(agent: str) -> list[str]:
    """The inputs of the search instances on which an agent earned nothing."""
    rows = [json.loads(line) for line in Path(f"rollouts/{agent}.jsonl").read_text().splitlines()]
    failed = {row["instance"] for row in rows if not row["reward"]}
    instances = [json.loads(line) for line in Path("instances.jsonl").read_text().splitlines()]
    return [json.dumps(each["input"]) for each in instances if each["id"] in failed]


def decide(change: dict[str, object]) -> None:
    Path("decision.json").write_text(json.dumps({"changes": [change]}))


if __name__ == "__main__":
    main()
