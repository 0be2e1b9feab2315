"""An environment in the style of `verifiers`, as a task: yours comes from `verifiers.load_environment(NAME)`."""

from types import SimpleNamespace

from sia_adapters import SingleTurn


def exact(completion, answer):
    return float(completion[-1]["content"].strip() == answer)


async def short(completion):
    return float(len(completion[-1]["content"]) <= 3)


class Sums(SingleTurn):
    name, brief = "two-sums", "Add the two numbers of input['question']. A short answer is worth a little."

    def environment(self):
        rows = [{"question": f"{a} + {b}", "answer": str(a + b)} for a in range(20) for b in range(10)]
        return SimpleNamespace(dataset=rows, rubric=SimpleNamespace(funcs=[exact, short], weights=[0.9, 0.1]))
