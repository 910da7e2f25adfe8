//! Texts with places to think at: tasks, where a thought stands before the answer, and ordinary text, where
//! thoughts stand at rows of high entropy.

use super::chains::Place;
use super::lessons::Lesson;
use data::Piece;
use model::Batch;
use tensor::random::Counted;

/// A batch of texts and its places, in segment order.
pub struct Scene {
    /// Tasks first, then ordinary text.
    pub batch: Batch,
    /// Where thoughts hang.
    pub places: Vec<Place>,
    /// Rows of ordinary text: row, the token behind it, and its loss weight.
    pub ordinary: Vec<(u32, u32, f32)>,
    texts: Vec<Vec<u32>>,
    tasks: usize,
}

impl Scene {
    /// Tasks as prompts with their direct answers, and pieces of ordinary text.
    pub fn new(tasks: &[&Lesson], text: &[Piece]) -> Self {
        let mut texts = Vec::new();
        let mut places = Vec::new();
        for (segment, lesson) in tasks.iter().enumerate() {
            let mut tokens = lesson.prompt.clone();
            tokens.extend(&lesson.direct);
            places.push(Place {
                segment,
                row: lesson.prompt.len() - 1,
                target: lesson.direct.clone(),
                judged: lesson.marker..lesson.direct.len(),
            });
            texts.push(tokens);
        }
        texts.extend(text.iter().map(|p| p.tokens.clone()));
        let starts = std::iter::repeat_n(0, tasks.len()).chain(text.iter().map(|p| p.start));
        let batch = Batch::new(
            texts
                .iter()
                .zip(starts)
                .map(|(t, start)| (&t[..t.len() - 1], start)),
        );
        let ordinary = text
            .iter()
            .zip(&batch.segments[tasks.len()..])
            .flat_map(|(p, rows)| {
                rows.clone().map(move |r| {
                    (
                        r as u32,
                        p.tokens[r - rows.start + 1],
                        p.loss[r - rows.start],
                    )
                })
            })
            .collect();
        Self {
            batch,
            places,
            ordinary,
            texts,
            tasks: tasks.len(),
        }
    }

    /// Adds `count` places in ordinary text, drawn from the quarter of its rows where the next token is most
    /// uncertain (at least `count` rows); `n_true` tokens are judged. `entropy` is by row of the batch.
    pub fn place_in_text(
        &mut self,
        entropy: &[f64],
        count: usize,
        n_true: usize,
        random: &Counted,
    ) {
        let mut rows: Vec<(usize, usize)> = (self.tasks..self.texts.len())
            .flat_map(|s| {
                let n = self.batch.segments[s].len();
                (0..(n + 1).saturating_sub(n_true)).map(move |row| (s, row))
            })
            .collect();
        let of = |&(s, row): &(usize, usize)| entropy[self.batch.segments[s].start + row];
        rows.sort_by(|a, b| of(b).total_cmp(&of(a)).then(a.cmp(b)));
        rows.truncate((rows.len() / 4).max(count));
        let mut chosen: Vec<(usize, usize)> = random
            .permutation(rows.len())
            .into_iter()
            .take(count)
            .map(|i| rows[i as usize])
            .collect();
        chosen.sort_unstable();
        for (segment, row) in chosen {
            let target = self.texts[segment][row + 1..row + 1 + n_true].to_vec();
            self.places.push(Place {
                segment,
                row,
                target,
                judged: 0..n_true,
            });
        }
    }
}
