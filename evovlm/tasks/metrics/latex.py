"""Writes the LaTeX of an answer as plain text: 1{,}080 as 1,080, \\frac34 as 3/4, 540\\text{円} as 540円."""

import re

_MATH = re.compile(r"\$[^$\n]{1,200}\$|\\\((?:(?!\\\)).){1,200}\\\)|\\boxed\s*\{[^{}\n]{1,200}\}")
# Between the groups of a number: {,} \, \! ~ and the like.
_THIN = r"(?:\\[,;:! ]|\\thinspace\b ?)"
_GROUP = re.compile(
    rf"(?<=[0-9])(?:\{{,\}}|\{{{_THIN}\}}|(?:{_THIN})?,{_THIN}|{_THIN}|~(?=000(?![0-9])))(?=[0-9]{{3}}(?![0-9]))"
)
_TILDE = re.compile(r"(?<=[0-9])~(?=[0-9]{3}(?![0-9]))")
_STYLED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|bf|bm|boldsymbol|underline)"
    r"\s*\{([^{}]{0,200})\}"
)
_AMOUNT = r"-?\s{0,2}(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.[0-9]{1,15})?"
_ARGUMENT = rf"(?:\s{{0,2}}\{{\s{{0,2}}(?P<%s>{_AMOUNT})\s{{0,2}}\}}|\s{{0,2}}(?P<%s_digit>[0-9]))"
_FRACTION = re.compile(
    r"\\(?:[dtcs]|nice)?frac(?![A-Za-z])" + _ARGUMENT % ("over", "over") + _ARGUMENT % ("under", "under")
)
_OVER = re.compile(rf"\{{\s{{0,2}}(?P<over>{_AMOUNT})\s{{0,2}}\\over\s{{0,2}}(?P<under>{_AMOUNT})\s{{0,2}}\}}")
# (-3)/4 and -(3/4).
_SIGN_IN_BRACKETS = re.compile(r"\(-\s?([0-9]{1,15})\)(?=/[0-9])|-\(([0-9]{1,15}/[0-9]{1,15})\)")
_SIGN_BEFORE_BOX = re.compile(r"(?<![0-9A-Za-z)\]}%])-\s?\$?(\\boxed\s*\{)(?=\s?[0-9\\$¥])")
_POWER_OF_TEN = re.compile(
    r"(?<![0-9.,+*/×-])([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?[×x*]\s?10\^(?:\{(-?[0-9]{1,2})\}|(-?[0-9]{1,2}))"
)
_POWER = re.compile(r"(?<![0-9A-Za-z.,^/)}])([0-9]{1,4})\^(?:\{([0-9]{1,2})\}|([0-9]{1,2})(?![0-9]))(?!\^)")
_LARGEST = 10**15
_EXPONENT_OF_UNIT = re.compile(r"(?<=[A-Za-z])\^(?:\{-?[0-9]{1,3}\}|[0-9])")
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|(?:display|text|script)style)(?![A-Za-z])")
_WORDS = (
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\yen(?![A-Za-z])"), "¥"),
    (re.compile(r"\^\s?\{?\\circ\}?|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\(?:q?quad)(?![A-Za-z])"), " "),
    (re.compile(r"\\\\"), "\n"),
    (re.compile(r"\\([$%&#_])"), r"\1"),
    (re.compile(r"\\[()\[\],;:! ]"), " "),
)


def without_latex(text: str) -> str:
    """Return the text with LaTeX numbers, fractions, units and signs in plain form; \\boxed{...} stays."""
    text = _MATH.sub(lambda found: _TILDE.sub(",", found[0]), text)
    text = _SIZE.sub("", text)
    for _ in range(3):
        # Styles are nested, rarely deeper than this.
        text = _STYLED.sub(r"\1", text)
    text = _GROUP.sub(",", text)
    text = _FRACTION.sub(_slashed, _OVER.sub(_slashed, text))
    for pattern, plain in _WORDS:
        text = pattern.sub(plain, text)
    text = _SIGN_BEFORE_BOX.sub(r"\1-", text)
    text = _POWER_OF_TEN.sub(lambda found: f"{float(f'{found[1]}e{found[2] or found[3]}'):.15g}", text)
    text = _POWER.sub(_raised, text)
    text = _EXPONENT_OF_UNIT.sub("", text)
    return _SIGN_IN_BRACKETS.sub(lambda found: f"-{found[1] or found[2]}", text)


def _raised(found: re.Match[str]) -> str:
    power = int(found[1]) ** int(found[2] or found[3])
    return str(power) if power < _LARGEST else found[0]


def _slashed(found: re.Match[str]) -> str:
    parts = found.groupdict()
    over, under = (
        (parts[name] or parts.get(f"{name}_digit") or "").replace(",", "").replace(" ", "")
        for name in ("over", "under")
    )
    if under.startswith("-"):
        over, under = over.removeprefix("-") if over.startswith("-") else f"-{over}", under.removeprefix("-")
    # 2½ is not 21/2, and -½ keeps its sign.
    gap = " " if found.string[max(0, found.start() - 1) : found.start()].isdigit() else ""
    return f"{gap}{over}/{under}"
