"""The compositional prompts of WinCLIP (Jeong et al. 2023), which One-to-Normal takes over: states x templates."""

from __future__ import annotations

from anosynth.errors import ParamsError

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_QUALITIES = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
_SIZES = ("small", "large")
_PURPOSES = ("visual inspection", "anomaly detection")
# One-to-Normal's own normal states, which its twins are drawn under, and the templates to vary them by.
TWIN_STATES = ("normal {} without flaw", "normal {} without defect", "normal {} without damage")
_TWIN_TEMPLATES = (
    "a photo of {}",
    "a small photo of {}",
    "a large photo of {}",
    "a bright photo of {}",
    "a dark photo of {}",
    "a blurry photo of {}",
    "a cropped photo of {}",
    "a close-up photo of {}",
    "a low resolution photo of {}",
    "a good photo of {}",
)
MAX_NORMAL_STATES = len(TWIN_STATES) * len(_TWIN_TEMPLATES)


def templates() -> tuple[str, ...]:
    """The 22 templates: a quality, a plain photo, a size or a purpose, each with "a" and with "the"."""
    patterns = [
        *(f"a {quality} photo of {{article}} {{{{}}}}." for quality in _QUALITIES),
        "a photo of {article} {{}}.",
        *(f"a photo of {{article}} {size} {{{{}}}}." for size in _SIZES),
        *(f"a photo of {{article}} {{{{}}}} for {purpose}." for purpose in _PURPOSES),
    ]
    return tuple(pattern.format(article=article) for pattern in patterns for article in ("a", "the"))


def normal_prompts(name: str) -> tuple[str, ...]:
    """The 154 sentences that say that an object is as it should be.

    Args:
        name: what the object is called, for example "steel washer"; underscores become spaces.

    Raises:
        ParamsError: if the name holds no letter or digit.
    """
    return _compose(NORMAL_STATES, name)


def anomalous_prompts(name: str) -> tuple[str, ...]:
    """The 88 sentences that say that an object is damaged; see `normal_prompts`."""
    return _compose(ANOMALOUS_STATES, name)


def normal_states(name: str, n: int) -> tuple[str, ...]:
    """The prompts that a query's normal twins are drawn under (One-to-Normal, section 3.1 and its appendix).

    The paper does not say which n it used. The first three are one per state with the plain template; more prompts go
    through the appendix's templates in order, each state in turn, so fewer prompts are a prefix of more.

    Args:
        name: what the object is called; underscores become spaces.
        n: how many, 1 to 30.

    Raises:
        ParamsError: if the name holds no letter or digit, or there are not so many prompts.
    """
    if not 1 <= n <= MAX_NORMAL_STATES:
        raise ParamsError(f"{n} normal-state prompts were asked for; there are 1 to {MAX_NORMAL_STATES}")
    spoken = _spoken(name)
    all_of_them = [template.format(state.format(spoken)) for template in _TWIN_TEMPLATES for state in TWIN_STATES]
    return tuple(all_of_them[:n])


def _compose(states: tuple[str, ...], name: str) -> tuple[str, ...]:
    spoken = _spoken(name)
    return tuple(template.format(state.format(spoken)) for state in states for template in templates())


def _spoken(name: str) -> str:
    spoken = " ".join(name.replace("_", " ").split())
    if not any(letter.isalnum() for letter in spoken):
        raise ParamsError(f"the object's name {name!r} holds no letter or digit, so no prompt can speak of it")
    # str.format runs on the result: braces in a name are letters, not fields
    return spoken.replace("{", "(").replace("}", ")")
