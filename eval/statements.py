"""Turn a question and an answer into a statement, which a dual encoder can compare with an image.

The protocol is ours, with rules for common forms of question; the paper's is not public. The form
depends on the question and the offered answer, never on people's answers. Questions that no rule
fits become "question: ... answer: ...".
"""

import re

ENTAILED = {
    "entailment": "{}",
    "neutral": "it is unclear whether {}",
    "contradiction": "it is not true that {}",
}
_AUX = "is|are|was|were|can|could|will|would|should|do|does|did|has|have|had"
_SUBJECT = (
    r"(?:this|that|it|these|those|he|she|they"
    r"|(?:the|a|an|his|her|their|this|that|these|those|any|all)\s+\w+)"
)
_THERE = re.compile(r"(is|are|was|were) there (?:(an? )|any |some )?(.+)")
_INVERTED = re.compile(rf"({_AUX}) ({_SUBJECT}) (.+)")
_MANY = re.compile(r"how many (.+)")
_MANY_THERE = re.compile(r"(.+?) (?:is|are|was|were) (?:there|seen|visible|shown)\b\s*(.*)")
_DOING = re.compile(r"what (is|are|was|were) (.+) (\w+ing)")
_PROPERTY = re.compile(
    r"what (?:colou?r|shape|kind|type|sort|size|time|brand|material|sport|room)\b.*?"
    r" (is|are|was|were) (.+)"
)
_WHAT = re.compile(r"(?:what|where|who|which|when) (is|are|was|were) (.+)")


def statement(question: str, answer: str) -> str:
    """Return the statement that `answer` to `question` makes about the image."""
    text, answer = _plain(question).lower(), answer.lower()
    if answer in ("yes", "no"):
        if found := _THERE.fullmatch(text):
            verb, article, rest = found.groups()
            return (
                f"there {verb} {article or ''}{rest}"
                if answer == "yes"
                else f"there {verb} no {rest}"
            )
        if found := _INVERTED.fullmatch(text):
            verb, subject, rest = found.groups()
            return f"{subject} {verb} {rest}" if answer == "yes" else f"{subject} {verb} not {rest}"
    if found := _MANY.fullmatch(text):
        counted = _MANY_THERE.fullmatch(found[1])
        return " ".join(f"{answer} {' '.join(counted.groups()) if counted else found[1]}".split())
    if found := _DOING.fullmatch(text):
        verb, subject, deed = found.groups()
        return (
            f"{subject} {verb} {answer}" if deed == "doing" else f"{subject} {verb} {deed} {answer}"
        )
    if found := _PROPERTY.fullmatch(text) or _WHAT.fullmatch(text):
        return f"{found[2]} {found[1]} {answer}"
    return f"question: {text} answer: {answer}"


def judgment(hypothesis: str, answer: str) -> str:
    """Return the statement that a hypothesis is true, unclear or false."""
    text = _plain(hypothesis)
    return ENTAILED[answer].format(text[:1].lower() + text[1:])


def _plain(question: str) -> str:
    return " ".join(question.strip().rstrip("?.! ").split())
