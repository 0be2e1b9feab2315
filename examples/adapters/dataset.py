"""A Hugging Face dataset with a reward function, as a task: here a list stands in for `load_dataset(...)`."""

from sia_adapters import Rows

WORDS = ["apple", "river", "stone", "cloud", "tiger", "lemon", "chair", "bread", "horse", "night"]


class Backwards(Rows):
    name = "backwards"
    brief = "Spell the word in input['word'] backwards. Letters in their right place are worth a part."

    def rows(self):
        return [{"word": one + two, "answer": (one + two)[::-1]} for one in WORDS for two in WORDS]

    def reward(self, row, answer):
        right = sum(a == b for a, b in zip(str(answer), row["answer"], strict=False))
        return right / max(len(row["answer"]), len(str(answer)))
