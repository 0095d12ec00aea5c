"""The wording of the embedded word problems: kinds, Japanese and English templates, names, things and their counters.

Placeholders: {name} {other} {item} {counter} and the numbers {a} {b} {c} {d}. English items are plural, so every number
that counts them is at least 2. The last Japanese template of each kind appears in the report split only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A countable thing: its Japanese name and counter, its English plural."""

    ja: str
    counter: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of problem.

    `ranges` bounds each number (both ends included); `steps` are (left, operator, right) over numbers and over the
    results of earlier steps, named x, y, z in order. `specialist` says which English specialist was tuned on the kind.
    """

    name: str
    specialist: str
    ranges: dict[str, tuple[int, int]]
    steps: tuple[tuple[str, str, str], ...]
    ja: tuple[str, ...]
    en: tuple[str, ...]
    money: bool = False


NAMES: tuple[tuple[str, str], ...] = (
    ("太郎", "Taro"),
    ("花子", "Hanako"),
    ("健", "Ken"),
    ("さくら", "Sakura"),
    ("次郎", "Jiro"),
    ("美咲", "Misaki"),
    ("翔", "Sho"),
    ("葵", "Aoi"),
    ("ゆい", "Yui"),
    ("陸", "Riku"),
    ("直子", "Naoko"),
    ("誠", "Makoto"),
)

ITEMS: tuple[Item, ...] = (
    Item(ja="りんご", counter="個", en="apples"),
    Item(ja="みかん", counter="個", en="oranges"),
    Item(ja="卵", counter="個", en="eggs"),
    Item(ja="あめ", counter="個", en="candies"),
    Item(ja="本", counter="冊", en="books"),
    Item(ja="ノート", counter="冊", en="notebooks"),
    Item(ja="鉛筆", counter="本", en="pencils"),
    Item(ja="花", counter="本", en="flowers"),
    Item(ja="切手", counter="枚", en="stamps"),
    Item(ja="カード", counter="枚", en="cards"),
    Item(ja="折り紙", counter="枚", en="paper sheets"),
    Item(ja="金魚", counter="匹", en="goldfish"),
    Item(ja="かぶと虫", counter="匹", en="beetles"),
)

DISTRACTORS: tuple[tuple[str, str], ...] = (
    ("{name}は{k}歳です。", "{name} is {k} years old."),
    ("今日は{k}日です。", "Today is day {k} of the month."),
    ("{name}の組には{k}人います。", "There are {k} people in the class of {name}."),
    ("家まで{k}分かかります。", "It takes {k} minutes to get home."),
)

KINDS: tuple[Kind, ...] = (
    Kind(
        name="gain",
        specialist="a",
        ranges={"a": (3, 50), "b": (2, 45)},
        steps=(("a", "+", "b"),),
        ja=(
            "{name}は{item}を{a}{counter}持っています。{b}{counter}もらいました。全部で何{counter}になりましたか。",
            "{item}が{a}{counter}ありました。{name}が{b}{counter}買ってきました。今、何{counter}ありますか。",
            "{name}は昨日{item}を{a}{counter}、今日{b}{counter}集めました。合わせて何{counter}集めましたか。",
            "箱に{item}が{a}{counter}入っています。さらに{b}{counter}入れると、何{counter}になりますか。",
            "{name}の{item}は{a}{counter}です。{other}から{b}{counter}もらうと、いくつになりますか。",
        ),
        en=(
            "{name} has {a} {item}. {name} gets {b} more. How many {item} does {name} have now?",
            "There were {a} {item}. {name} bought {b} more. How many {item} are there now?",
            "{name} collected {a} {item} yesterday and {b} today. How many {item} in all?",
            "A box holds {a} {item}. If {b} more are put in, how many {item} are in it?",
        ),
    ),
    Kind(
        name="lose",
        specialist="a",
        ranges={"a": (10, 60), "b": (2, 45)},
        steps=(("a", "-", "b"),),
        ja=(
            "{name}は{item}を{a}{counter}持っていました。{other}に{b}{counter}あげました。何{counter}残っていますか。",
            "{item}が{a}{counter}ありました。{name}が{b}{counter}使いました。残りは何{counter}ですか。",
            "店に{item}が{a}{counter}あります。{b}{counter}売れました。あと何{counter}ありますか。",
            "{name}は{item}{a}{counter}のうち{b}{counter}をなくしました。残りは何{counter}ですか。",
            "{a}{counter}の{item}から{b}{counter}を取り出すと、残りはいくつですか。",
        ),
        en=(
            "{name} had {a} {item}. {name} gave {b} of them to {other}. How many {item} are left?",
            "There were {a} {item}. {name} used {b}. How many {item} remain?",
            "A shop has {a} {item}. It sells {b}. How many {item} are still there?",
            "{name} lost {b} of {a} {item}. How many {item} are left?",
        ),
    ),
    Kind(
        name="groups",
        specialist="a",
        ranges={"a": (2, 9), "b": (2, 12)},
        steps=(("a", "×", "b"),),
        ja=(
            "{item}が{b}{counter}ずつ入った箱が{a}箱あります。{item}は全部で何{counter}ですか。",
            "{name}は{a}人の友達に{item}を{b}{counter}ずつ配ります。{item}は何{counter}いりますか。",
            "1袋に{item}が{b}{counter}入っています。{a}袋では何{counter}ですか。",
            "{name}は毎日{item}を{b}{counter}集めます。{a}日で何{counter}になりますか。",
            "{a}つのかごに{item}が{b}{counter}ずつあります。全部でいくつですか。",
        ),
        en=(
            "There are {a} boxes with {b} {item} each. How many {item} are there in all?",
            "{name} gives {b} {item} to each of {a} friends. How many {item} are needed?",
            "One bag holds {b} {item}. How many {item} do {a} bags hold?",
            "{name} collects {b} {item} every day. How many {item} after {a} days?",
        ),
    ),
    Kind(
        name="gain_lose",
        specialist="a",
        ranges={"a": (5, 40), "b": (2, 30), "c": (2, 40)},
        steps=(("a", "+", "b"), ("x", "-", "c")),
        ja=(
            "{name}は{item}を{a}{counter}持っています。{b}{counter}買って、{c}{counter}あげました。何{counter}ありますか。",
            "{item}が{a}{counter}ありました。{b}{counter}増えたあと、{c}{counter}減りました。今は何{counter}ですか。",
            "{name}は朝に{item}を{a}{counter}、昼に{b}{counter}もらい、夜に{c}{counter}使いました。残りは何{counter}ですか。",
            "棚に{item}が{a}{counter}あります。{b}{counter}足して{c}{counter}取ると、何{counter}になりますか。",
            "{name}は{a}{counter}の{item}に{b}{counter}を加え、そのうち{c}{counter}を{other}に渡しました。いくつ残りますか。",
        ),
        en=(
            "{name} has {a} {item}. {name} buys {b} and gives away {c}. How many {item} are there?",
            "There were {a} {item}. Then {b} were added and {c} were taken. How many {item} now?",
            "{name} got {a} {item} in the morning and {b} at noon, and used {c} at night. How many {item} are left?",
            "A shelf has {a} {item}. After adding {b} and taking {c}, how many {item} are there?",
        ),
    ),
    Kind(
        name="groups_plus",
        specialist="a",
        ranges={"a": (2, 9), "b": (2, 9), "c": (2, 30)},
        steps=(("a", "×", "b"), ("x", "+", "c")),
        ja=(
            "{item}が{b}{counter}入った箱が{a}箱と、ばらの{item}が{c}{counter}あります。全部で何{counter}ですか。",
            "{name}は{item}を{b}{counter}ずつ{a}回もらい、あとで{c}{counter}買いました。合わせて何{counter}ですか。",
            "1袋{b}{counter}の{item}を{a}袋買いました。家には{c}{counter}あります。全部で何{counter}になりますか。",
            "{a}人が{item}を{b}{counter}ずつ出し、{name}が{c}{counter}足しました。何{counter}集まりましたか。",
            "{b}{counter}入りの{item}が{a}箱、ほかに{c}{counter}。{item}は合わせていくつありますか。",
        ),
        en=(
            "There are {a} boxes with {b} {item} each and {c} loose ones. How many {item} in all?",
            "{name} got {b} {item} each time for {a} times and later bought {c}. How many {item} in all?",
            "{name} bought {a} bags of {b} {item}. There are {c} at home. How many {item} altogether?",
            "{a} people give {b} {item} each and {name} adds {c}. How many {item} are gathered?",
        ),
    ),
    Kind(
        name="change",
        specialist="a",
        ranges={"a": (2, 12), "b": (2, 8), "d": (50, 100)},
        steps=(("a", "×", "b"), ("d", "-", "x")),
        money=True,
        ja=(
            "1{counter}{a}円の{item}を{b}{counter}買い、{d}円出しました。おつりはいくらですか。",
            "{name}は{d}円持っています。{a}円の{item}を{b}{counter}買うと、何円残りますか。",
            "{item}は1{counter}{a}円です。{name}が{b}{counter}買って{d}円払いました。おつりは何円ですか。",
            "{d}円で{a}円の{item}を{b}{counter}買いました。残りのお金はいくらですか。",
            "{name}の財布に{d}円あります。{item}は1{counter}{a}円で、{b}{counter}買います。財布に残るのは何円ですか。",
        ),
        en=(
            "{name} buys {b} {item} at {a} yen each and pays {d} yen. How much is the change?",
            "{name} has {d} yen. After buying {b} {item} at {a} yen each, how many yen are left?",
            "One of the {item} costs {a} yen. {name} takes {b} of them and pays {d} yen. What is the change?",
            "With {d} yen, {name} bought {b} {item} for {a} yen each. How much money is left?",
        ),
    ),
    Kind(
        name="buy_two",
        specialist="a",
        ranges={"a": (2, 9), "b": (2, 6), "c": (2, 9), "d": (2, 6)},
        steps=(("a", "×", "b"), ("c", "×", "d"), ("x", "+", "y")),
        money=True,
        ja=(
            "{a}円の{item}を{b}{counter}と、{c}円の菓子を{d}つ買いました。全部で何円ですか。",
            "{name}は1{counter}{a}円の{item}を{b}{counter}、1つ{c}円のパンを{d}つ買いました。代金はいくらですか。",
            "{item}は{a}円、菓子は{c}円です。{item}を{b}{counter}と菓子を{d}つ買うと、合わせて何円ですか。",
            "{name}は{item}{b}{counter}とパン{d}つを買います。{item}は{a}円、パンは{c}円です。いくら払いますか。",
            "1{counter}{a}円で{item}を{b}{counter}、1つ{c}円で菓子を{d}つ。合計は何円になりますか。",
        ),
        en=(
            "{name} buys {b} {item} at {a} yen each and {d} sweets at {c} yen each. How many yen in all?",
            "{name} bought {b} {item} for {a} yen each and {d} buns for {c} yen each. What is the price?",
            "The {item} cost {a} yen and sweets {c} yen. What do {b} {item} and {d} sweets cost together?",
            "{name} takes {b} {item} and {d} buns. The {item} are {a} yen and the buns {c} yen. How much to pay?",
        ),
    ),
    Kind(
        name="share",
        specialist="b",
        ranges={"a": (6, 90), "b": (2, 9)},
        steps=(("a", "÷", "b"),),
        ja=(
            "{a}{counter}の{item}を{b}人で同じ数ずつ分けます。1人何{counter}ですか。",
            "{name}は{item}{a}{counter}を{b}つの箱に等しく入れました。1箱に何{counter}ですか。",
            "{item}が{a}{counter}あります。{b}人で分けると、1人分は何{counter}になりますか。",
            "{b}日で{item}を{a}{counter}作りました。毎日同じ数です。1日に何{counter}作りましたか。",
            "{item}{a}{counter}を{b}等分すると、いくつずつになりますか。",
        ),
        en=(
            "{a} {item} are shared equally by {b} people. How many does each person get?",
            "{name} puts {a} {item} into {b} boxes equally. How many go in one box?",
            "If {b} people split {a} {item}, how many is one share?",
            "{a} {item} were made in {b} days, the same number each day. How many per day?",
        ),
    ),
    Kind(
        name="difference",
        specialist="b",
        ranges={"a": (8, 60), "b": (3, 55)},
        steps=(("a", "-", "b"),),
        ja=(
            "{name}は{item}を{a}{counter}、{other}は{b}{counter}持っています。{name}は{other}より何{counter}多いですか。",
            "{item}を{name}は{a}{counter}、{other}は{b}{counter}集めました。違いは何{counter}ですか。",
            "赤い{item}が{a}{counter}、白い{item}が{b}{counter}あります。赤は白より何{counter}多いですか。",
            "{other}の{item}は{b}{counter}で、{name}の{item}は{a}{counter}です。差は何{counter}ですか。",
            "{name}には{item}が{a}{counter}、{other}には{b}{counter}。2人の差はいくつですか。",
        ),
        en=(
            "{name} has {a} {item} and {other} has {b}. How many more does {name} have than {other}?",
            "{name} collected {a} {item}, {other} only {b}. What is the difference?",
            "There are {a} red {item} and {b} white ones. How many more red than white?",
            "{other} owns {b} {item} while {name} owns {a}. By how many do they differ?",
        ),
    ),
    Kind(
        name="more_total",
        specialist="b",
        ranges={"a": (3, 35), "b": (2, 20)},
        steps=(("a", "+", "b"), ("a", "+", "x")),
        ja=(
            "{name}は{item}を{a}{counter}持ち、{other}は{name}より{b}{counter}多く持っています。2人で何{counter}ですか。",
            "{name}の{item}は{a}{counter}です。{other}の{item}はそれより{b}{counter}多いです。合わせて何{counter}ですか。",
            "昨日は{item}が{a}{counter}、今日は昨日より{b}{counter}多く売れました。2日で何{counter}売れましたか。",
            "{other}は{name}より{item}を{b}{counter}多く集めました。{name}は{a}{counter}です。2人の合計は何{counter}ですか。",
            "白い{item}は{a}{counter}、赤い{item}はそれより{b}{counter}多くあります。全部でいくつですか。",
        ),
        en=(
            "{name} has {a} {item} and {other} has {b} more than {name}. How many do both have together?",
            "{name} owns {a} {item}. {other} owns {b} more than that. What is the total?",
            "Yesterday {a} {item} were sold, today {b} more than yesterday. How many in the two days?",
            "{other} collected {b} more {item} than {name}, who has {a}. What is the sum for both?",
        ),
    ),
    Kind(
        name="times_total",
        specialist="b",
        ranges={"a": (2, 12), "b": (2, 6)},
        steps=(("a", "×", "b"), ("a", "+", "x")),
        ja=(
            "{name}は{item}を{a}{counter}持ち、{other}は{name}の{b}倍持っています。2人で何{counter}ですか。",
            "{name}の{item}は{a}{counter}で、{other}はその{b}倍です。合わせて何{counter}ですか。",
            "白い{item}が{a}{counter}あり、赤い{item}は白の{b}倍あります。全部で何{counter}ですか。",
            "昨日は{item}を{a}{counter}、今日は昨日の{b}倍作りました。2日で何{counter}作りましたか。",
            "{other}の{item}は{name}の{b}倍です。{name}が{a}{counter}なら、2人でいくつですか。",
        ),
        en=(
            "{name} has {a} {item} and {other} has {b} times as many. How many do both have together?",
            "{name} owns {a} {item}, {other} {b} times that. What is the total?",
            "There are {a} white {item} and {b} times as many red ones. How many altogether?",
            "Yesterday {a} {item} were made, today {b} times as many. How many in the two days?",
        ),
    ),
    Kind(
        name="share_after",
        specialist="b",
        ranges={"a": (3, 40), "b": (3, 40), "c": (2, 9)},
        steps=(("a", "+", "b"), ("x", "÷", "c")),
        ja=(
            "{name}は{item}を{a}{counter}、{other}は{b}{counter}持っています。合わせて{c}人で分けると、1人何{counter}ですか。",
            "{a}{counter}と{b}{counter}の{item}を合わせて、{c}つの袋に等しく入れます。1袋に何{counter}ですか。",
            "赤い{item}{a}{counter}と白い{item}{b}{counter}を{c}人で同じ数ずつ分けます。1人何{counter}ですか。",
            "{item}が{a}{counter}あります。{b}{counter}買い足して{c}人に配ると、1人分は何{counter}ですか。",
            "{name}の{a}{counter}と{other}の{b}{counter}の{item}を全部集めて{c}等分します。いくつずつですか。",
        ),
        en=(
            "{name} has {a} {item} and {other} has {b}. If {c} people share all of them, how many does each get?",
            "{a} and {b} {item} are put together and split into {c} bags equally. How many per bag?",
            "{a} red and {b} white {item} are shared equally by {c} people. How many does each get?",
            "There are {a} {item}. With {b} more, they are handed to {c} people. How many is one share?",
        ),
    ),
    Kind(
        name="groups_minus",
        specialist="b",
        ranges={"a": (2, 9), "b": (3, 12), "c": (2, 40)},
        steps=(("a", "×", "b"), ("x", "-", "c")),
        ja=(
            "{item}が{b}{counter}入った箱が{a}箱あります。{c}{counter}使いました。残りは何{counter}ですか。",
            "{name}は{item}を{b}{counter}ずつ{a}日集め、{other}に{c}{counter}あげました。何{counter}残っていますか。",
            "1袋{b}{counter}の{item}を{a}袋買いましたが、{c}{counter}は傷んでいました。よいものは何{counter}ですか。",
            "{a}列に{item}が{b}{counter}ずつ並んでいます。{c}{counter}取ると何{counter}になりますか。",
            "{b}{counter}入りの{item}{a}箱から{c}{counter}を配りました。あといくつありますか。",
        ),
        en=(
            "There are {a} boxes with {b} {item} each. {c} are used up. How many remain?",
            "{name} gathers {b} {item} a day for {a} days and hands {c} to {other}. How many remain?",
            "{name} bought {a} bags of {b} {item}, but {c} were bad. How many were good?",
            "{a} rows have {b} {item} each. If {c} are removed, how many remain?",
        ),
    ),
    Kind(
        name="left_share",
        specialist="b",
        ranges={"a": (10, 80), "b": (2, 40), "c": (2, 9)},
        steps=(("a", "-", "b"), ("x", "÷", "c")),
        ja=(
            "{item}が{a}{counter}あります。{b}{counter}使って、残りを{c}人で分けます。1人何{counter}ですか。",
            "{name}は{item}{a}{counter}のうち{b}{counter}を取っておき、残りを{c}つの箱に等しく入れました。1箱に何{counter}ですか。",
            "{a}{counter}の{item}から{b}{counter}を除き、{c}人に同じ数ずつ配ります。1人分は何{counter}ですか。",
            "店に{item}が{a}{counter}ありました。{b}{counter}売れ、残りを{c}つの棚に同じ数ずつ置きます。1つの棚に何{counter}ですか。",
            "{name}は{a}{counter}の{item}を持ち、{b}{counter}を{other}に渡してから残りを{c}等分しました。いくつずつですか。",
        ),
        en=(
            "There are {a} {item}. {b} are used and {c} people share the rest. How many does each get?",
            "{name} keeps {b} of {a} {item} and puts the rest into {c} boxes equally. How many per box?",
            "{b} of {a} {item} are removed, and the rest is handed to {c} people. How many is one share?",
            "A shop had {a} {item}. It sold {b} and puts the rest on {c} shelves equally. How many per shelf?",
        ),
    ),
)
