//! Compares the decisions with the scenes that were drawn.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use touchline_core::decision::SecondOutcome;
use touchline_core::labels::{ClassSet, OTHER};
use touchline_serve::hub::notice::Notice;
use touchline_serve::record::Published;
use touchline_serve::record::format::class_title;
use touchline_serve::sink::{Item, ItemContent, Sink};

use super::channel::{SCENE_S, scene};
use super::scenes::Scene;

/// Text of the notice besides the count.
const EXPLANATION: &str = "The program draws these scenes itself; no model was trained on them.";

/// Counts the scenes that were classified correctly, by the answer at their last second.
pub struct Scorecard {
    classes: ClassSet,
    /// Ids of the streams, and their channels.
    channels: HashMap<Arc<str>, usize>,
    notice: Notice,
    right: u32,
    all: u32,
}

/// The notice before the first scene is over.
pub fn notice() -> Notice {
    Notice::new(EXPLANATION)
}

impl Scorecard {
    pub fn new(classes: ClassSet, channels: HashMap<Arc<str>, usize>, notice: Notice) -> Self {
        Self { classes, channels, notice, right: 0, all: 0 }
    }

    fn second(&mut self, stream: &str, channel: usize, published: &Published) {
        let index = published.outcome.index();
        if index % SCENE_S != SCENE_S - 1 {
            return;
        }
        let drawn = scene(channel, index);
        let answer = Answer::of(published, &self.classes);
        let is_right = answer.is_right(drawn);
        self.all += 1;
        self.right += u32::from(is_right);
        let count = format!("{} of {} scenes were classified correctly", self.right, self.all);
        self.notice.set(format!("{EXPLANATION} So far {count}."));
        let drawn = drawn.class().map_or("Colour bars".to_owned(), |class| {
            if class == OTHER { "Studio".to_owned() } else { class_title(class) }
        });
        let verdict = if is_right { "right" } else { "wrong" };
        let _ = writeln!(
            std::io::stdout(),
            "{stream}: drawn {drawn}, classified as {}: {verdict} ({count})",
            answer.title()
        );
    }
}

/// What was on air.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Class(String),
    Unknown,
    NoProgramme,
}

impl Answer {
    fn of(published: &Published, classes: &ClassSet) -> Self {
        match &published.outcome {
            outcome if outcome.is_no_programme() => Self::NoProgramme,
            SecondOutcome::Gap(_) => Self::Unknown,
            SecondOutcome::Predicted(_) if published.estimate.is_unknown() => Self::Unknown,
            SecondOutcome::Predicted(_) => Self::Class(classes.name(published.estimate.label).to_owned()),
        }
    }

    fn is_right(&self, drawn: Scene) -> bool {
        match (self, drawn.class()) {
            (Self::NoProgramme, None) => true,
            // For a studio, every answer without a sport is correct.
            (Self::Unknown, Some(OTHER)) => true,
            (Self::Class(answer), Some(class)) => answer == class,
            _ => false,
        }
    }

    fn title(&self) -> String {
        match self {
            Self::Class(class) => class_title(class),
            Self::Unknown => "Not sure".to_owned(),
            Self::NoProgramme => "No programme".to_owned(),
        }
    }
}

impl Sink for Scorecard {
    fn name(&self) -> &'static str {
        "scorecard"
    }

    fn take(&mut self, item: &Item) -> u64 {
        if let (ItemContent::Second(published), Some(channel)) = (&item.content, self.channels.get(&item.stream)) {
            self.second(&item.stream, *channel, published);
        }
        0
    }
}
