"""The verifier: reads a case and a forecast, prints the root of its mean squared error."""

import json
import math
import sys

case = json.load(sys.stdin)
answer, truth = case["answer"], case["truth"]
if not isinstance(answer, list) or len(answer) != len(truth) or not all(type(x) in (int, float) for x in answer):
    print(json.dumps({"reward": 20, "valid": False, "feedback": f"the answer is not a list of {len(truth)} numbers"}))
else:
    error = math.hypot(*(a - b for a, b in zip(answer, truth, strict=True))) / math.sqrt(len(truth))
    print(json.dumps({"reward": min(error, 20.0), "feedback": f"off by {error:.2f} degrees"}))
