//! Plain tables for people.

/// Rows under a header, columns aligned: the first to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (i, (cell, &w)) in cells.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(w - cell.chars().count());
            out += &if i == 0 {
                format!("{cell}{pad}")
            } else {
                format!("  {pad}{cell}")
            };
        }
        out.trim_end().to_string() + "\n"
    };
    let mut out = line(header.to_vec());
    out += &line(
        widths
            .iter()
            .map(|&w| "-".repeat(w))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect(),
    );
    for row in rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

/// Bytes in a unit that fits.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        n => scaled(n as f64, &["B", "KB", "MB", "GB", "TB"]),
    }
}

/// Floating-point operations in a unit that fits.
pub(crate) fn flops(n: f64) -> String {
    scaled(
        n,
        &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"],
    )
}

/// In the first unit that leaves less than 1,000, or in the last; each is a thousand times the one before.
fn scaled(x: f64, units: &[&str]) -> String {
    let (mut x, mut units) = (x, units.iter().peekable());
    loop {
        let unit = units.next().copied().unwrap_or_default();
        if x < 1000.0 || units.peek().is_none() {
            return format!("{x:.2} {unit}");
        }
        x /= 1000.0;
    }
}

/// Seconds as h, m, s.
pub(crate) fn seconds(s: f64) -> String {
    let s = s.max(0.0);
    match s as u64 {
        n if n < 60 => format!("{s:.1} s"),
        n if n < 3600 => format!("{} m {:02} s", n / 60, n % 60),
        n => format!("{} h {:02} m", n / 3600, n / 60 % 60),
    }
}
