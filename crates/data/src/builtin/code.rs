//! Code: short Python programs over numbers, strings and lists; the answer is what they print.
//!
//! The worked steps are the interpreter's: the value of each variable, the running total, the picked element.
//! Leaves out everything that cannot be traced in two or three lines (functions, nested loops, dictionaries).

use super::Exercise;
use super::draw::Draw;

/// Words of the string programs; no two share their letters.
const WORDS: [&str; 24] = [
    "cat", "dog", "sun", "red", "box", "pen", "hat", "milk", "tree", "fish", "bird", "moon",
    "star", "rain", "snow", "leaf", "lamp", "door", "cake", "ring", "gold", "sand", "wind", "frog",
];

pub(super) fn exercise(draw: &mut Draw) -> Exercise {
    let program = match draw.below(11) {
        0 => assignment(draw),
        1 => three_assignments(draw),
        2 => element(draw),
        3 => total(draw),
        4 => extreme(draw),
        5 => sorted(draw),
        6 => reversed(draw),
        7 => joined(draw),
        8 => counted_loop(draw),
        9 => branch(draw),
        _ => appended(draw),
    };
    let key = format!(
        "program {}",
        &blake3::hash(program.code.as_bytes()).to_hex()[..12]
    );
    let question = format!("What does this print?\n{}", program.code);
    Exercise::exact(key, question, program.worked, program.output)
}

struct Program {
    code: String,
    worked: String,
    output: String,
}

impl Program {
    fn new(code: String, worked: String, output: impl ToString) -> Self {
        Program {
            code,
            worked,
            output: output.to_string(),
        }
    }
}

/// A sum, difference or product that stays within 0-99: sign, right operand, result.
fn operation(draw: &mut Draw, left: i64) -> (char, i64, i64) {
    match draw.below(3) {
        0 if left < 80 => {
            let right = draw.within(1, 19);
            ('+', right, left + right)
        }
        1 if left < 25 => {
            let right = draw.within(2, 3);
            ('*', right, left * right)
        }
        _ if left > 1 => {
            let right = draw.within(1, (left - 1).min(9));
            ('-', right, left - right)
        }
        _ => ('+', 1, left + 1),
    }
}

fn assignment(draw: &mut Draw) -> Program {
    let x = draw.within(2, 40);
    let (sign, n, y) = operation(draw, x);
    let code = format!("x = {x}\ny = x {sign} {n}\nprint(y)");
    Program::new(code, format!("y = {x} {sign} {n} = {y}."), y)
}

fn three_assignments(draw: &mut Draw) -> Program {
    let start = draw.within(2, 20);
    let (sign, n, second) = operation(draw, start);
    let (last_sign, m, last) = operation(draw, second);
    let code = format!("x = {start}\nx = x {sign} {n}\nx = x {last_sign} {m}\nprint(x)");
    let worked =
        format!("x = {start} {sign} {n} = {second}. x = {second} {last_sign} {m} = {last}.");
    Program::new(code, worked, last)
}

/// Three or four different numbers below 50.
fn numbers(draw: &mut Draw) -> Vec<i64> {
    let count = 3 + draw.below(2);
    draw.several(&(1..50).collect::<Vec<i64>>(), count)
}

fn element(draw: &mut Draw) -> Program {
    let list = numbers(draw);
    let place = draw.below(list.len());
    let steps: Vec<String> = (0..=place)
        .map(|at| format!("a[{at}] is {}.", list[at]))
        .collect();
    Program::new(
        format!("a = {list:?}\nprint(a[{place}])"),
        steps.join(" "),
        list[place],
    )
}

fn total(draw: &mut Draw) -> Program {
    let list: Vec<i64> = (0..3).map(|_| draw.within(1, 20)).collect();
    let (two, all) = (list[0] + list[1], list.iter().sum::<i64>());
    let worked = format!(
        "{} + {} = {two}. {two} + {} = {all}.",
        list[0], list[1], list[2]
    );
    Program::new(format!("a = {list:?}\nprint(sum(a))"), worked, all)
}

fn extreme(draw: &mut Draw) -> Program {
    let list = numbers(draw);
    let largest = draw.below(2) == 0;
    let (name, sign) = if largest { ("max", '>') } else { ("min", '<') };
    let mut best = list[0];
    let mut steps = Vec::new();
    for &next in &list[1..] {
        if (next > best) == largest {
            steps.push(format!("{next} {sign} {best}."));
            best = next;
        } else {
            steps.push(format!("{best} {sign} {next}."));
        }
    }
    Program::new(
        format!("a = {list:?}\nprint({name}(a))"),
        steps.join(" "),
        best,
    )
}

fn sorted(draw: &mut Draw) -> Program {
    let list = numbers(draw);
    let mut ordered = list.clone();
    ordered.sort_unstable();
    let steps: Vec<String> = ordered
        .windows(2)
        .map(|pair| format!("{} < {}.", pair[0], pair[1]))
        .collect();
    Program::new(
        format!("print(sorted({list:?}))"),
        steps.join(" "),
        format!("{ordered:?}"),
    )
}

fn reversed(draw: &mut Draw) -> Program {
    let word = format!("{}{}", draw.pick(&WORDS), draw.pick(&["", "s", "a", "y"]));
    let letters: Vec<String> = word.chars().map(String::from).collect();
    let back: Vec<String> = letters.iter().rev().cloned().collect();
    let worked = format!("{}. {}.", letters.join(" "), back.join(" "));
    Program::new(format!("print(\"{word}\"[::-1])"), worked, back.concat())
}

fn joined(draw: &mut Draw) -> Program {
    let (first, second) = (*draw.pick(&WORDS), *draw.pick(&WORDS));
    if draw.below(2) == 0 {
        let code = format!("s = \"{first}\"\nprint(s + \"{second}\")");
        Program::new(
            code,
            format!("{first} and {second}."),
            format!("{first}{second}"),
        )
    } else {
        let times = draw.below(2) + 2;
        let code = format!("s = \"{first}\"\nt = \"{second}\"\nprint(s + t * {times})");
        let repeated = second.repeat(times);
        let worked = format!("t * {times} is {repeated}.");
        Program::new(code, worked, format!("{first}{repeated}"))
    }
}

fn counted_loop(draw: &mut Draw) -> Program {
    let (start, step, turns) = (draw.within(0, 20), draw.within(1, 9), draw.within(2, 4));
    let code = format!("x = {start}\nfor i in range({turns}):\n    x = x + {step}\nprint(x)");
    let values: Vec<String> = (1..=turns)
        .map(|turn| format!("x = {}.", start + turn * step))
        .collect();
    Program::new(code, values.join(" "), start + turns * step)
}

fn branch(draw: &mut Draw) -> Program {
    let x = draw.within(1, 50);
    let limit = draw.within(1, 50);
    let words = draw.several(&WORDS, 2);
    let (yes, no) = (words[0], words[1]);
    let code =
        format!("x = {x}\nif x > {limit}:\n    print(\"{yes}\")\nelse:\n    print(\"{no}\")");
    if x > limit {
        Program::new(code, format!("{x} > {limit}."), yes)
    } else {
        Program::new(code, format!("{x} > {limit} is not so."), no)
    }
}

fn appended(draw: &mut Draw) -> Program {
    let mut list = numbers(draw);
    let shown = format!("{list:?}");
    let extra = draw.within(1, 49);
    list.push(extra);
    let (ask, worked, output) = if draw.below(2) == 0 {
        let steps: Vec<String> = (1..=list.len()).map(|count| format!("{count}.")).collect();
        ("len(a)", steps.join(" "), list.len().to_string())
    } else {
        ("a", format!("put {extra} at the end."), format!("{list:?}"))
    };
    Program::new(
        format!("a = {shown}\na.append({extra})\nprint({ask})"),
        worked,
        output,
    )
}
