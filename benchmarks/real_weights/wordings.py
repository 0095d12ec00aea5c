"""Wordings of one-step English problems, by operation. Numbers: {a} and {b} in the order of the calculation."""

from collections.abc import Mapping

WORDINGS: Mapping[str, tuple[str, ...]] = {
    "+": (
        "{name} has {a} {item}. {name} gets {b} more. How many {item} does {name} have now?",
        "{name} picked {a} {item} and {other} picked {b}. How many {item} did they pick together?",
        "A school keeps {a} {item} in one room and {b} in another. How many {item} does it have?",
        "{name} walked {a} km yesterday and {b} km today. How far did {name} walk in all?",
        "There are {a} birds on a roof. {b} more arrive. How many birds are on the roof now?",
        "{name} spent {a} dollars on a cap and {b} dollars on a shirt. How much did {name} spend?",
        "After giving away {b} {item}, {name} has {a} left. How many {item} did {name} have at first?",
        "{name} is {a} years old. {other} is {b} years older. How old is {other}?",
        "A bus carries {a} people. At the next stop {b} people get on. How many people does it carry?",
        "There are {a} red and {b} white {item} in a bag. How many {item} are in the bag?",
    ),
    "-": (
        "{name} had {a} {item} and lost {b} of them. How many {item} are left?",
        "{name} gave {b} of {a} {item} to {other}. How many {item} does {name} still have?",
        "{name} needs {a} {item} and already has {b}. How many more {item} does {name} need?",
        "A tank held {a} liters of water. {b} liters ran out. How much water is left?",
        "{name} had some {item}. After finding {b} more, {name} has {a}. How many {item} did {name} have at first?",
        "{name} has {a} dollars and buys a book for {b} dollars. How much money is left?",
        "A class has {a} pupils. {b} of them are girls. How many are boys?",
        "{name} weighs {a} kg and {other} weighs {b} kg. How much heavier is {name}?",
        "{name} has {a} {item} and {other} has {b}. How many more does {name} have than {other}?",
        "There were {a} {item} in a shop. {b} were sold today. How many {item} remain?",
    ),
    "*": (
        "Each of {a} bags holds {b} {item}. How many {item} are in the bags?",
        "{name} reads {b} pages a day. How many pages does {name} read in {a} days?",
        "A ticket costs {b} dollars. How much do {a} tickets cost?",
        "{name} runs {b} km every hour. How far does {name} run in {a} hours?",
        "There are {a} tables with {b} chairs each. How many chairs are there?",
        "{other} has {b} {item}. {name} has {a} times as many. How many {item} does {name} have?",
        "{name} gives {b} {item} to each of {a} friends. How many {item} are needed?",
        "{a} rows have {b} seats each. How many seats are there in all?",
        "One box weighs {b} kg. How much do {a} such boxes weigh?",
        "{name} saves {b} dollars every week. How much does {name} save in {a} weeks?",
    ),
    "/": (
        "{name} packs {a} {item} into boxes of {b}. How many boxes are needed?",
        "{a} pupils form teams of {b}. How many teams are there?",
        "{name} earned {a} dollars in {b} days, the same amount each day. How much did {name} earn a day?",
        "A rope of {a} m is cut into {b} equal parts. How long is each part?",
        "{name} pays {a} dollars for {b} {item}. How much does one cost?",
        "{a} {item} are shared equally by {b} people. How many does each person get?",
        "{name} drove {a} km in {b} hours. How far did {name} drive in one hour?",
        "{a} cookies fill {b} jars equally. How many cookies are in a jar?",
        "{name} plants {a} {item} in {b} equal rows. How many are in each row?",
        "A book has {a} pages. {name} reads {b} pages a day. How many days does it take?",
    ),
}
