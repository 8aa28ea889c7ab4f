//! Players and spectators.

use super::canvas::{Canvas, Point, Rgb};

/// A number from 0 to 1 that depends only on `seed`.
pub fn chance(seed: u32) -> f32 {
    let mut x = seed.wrapping_mul(0x9E37_79B9) ^ 0x85EB_CA6B;
    x = (x ^ (x >> 15)).wrapping_mul(0x2C1B_3C6D);
    x = (x ^ (x >> 12)).wrapping_mul(0x297A_2D39);
    ((x ^ (x >> 15)) >> 8) as f32 / (1 << 24) as f32
}

/// Shirts of spectators.
const CROWD: [Rgb; 3] = [[176, 60, 56], [70, 92, 150], [206, 204, 196]];
const SKIN: [Rgb; 4] = [[232, 190, 160], [198, 150, 116], [141, 94, 66], [92, 62, 46]];

/// Clothes of a player.
#[derive(Clone, Copy, Debug)]
pub struct Kit {
    pub shirt: Rgb,
    pub shorts: Rgb,
    pub socks: Rgb,
    /// Colour of the helmet or the hair.
    pub head: Rgb,
}

/// Equipment of a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    Racket,
    Stick,
}

/// A player at a place on the ground.
#[derive(Clone, Copy, Debug)]
pub struct Player {
    pub at: [f32; 2],
    pub kit: Kit,
    pub holds: Holds,
    /// Steps since the start, for the movement of arms and legs.
    pub steps: f32,
    /// Length of a step, metres; 0 for a standing player.
    pub stride: f32,
    /// Height as a share of 1.82 m: 1 is upright, less is crouched.
    pub height: f32,
    pub seed: u32,
}

impl Player {
    pub fn draw(&self, canvas: &mut Canvas) {
        let [x, y] = self.at;
        let tall = 1.82 * self.height;
        let skin = SKIN[(chance(self.seed ^ 77) * 4.0) as usize % 4];
        let swing = (self.steps * std::f32::consts::TAU).sin() * self.stride;
        canvas.disc([x + 0.1, y], 0.45, [0, 0, 0], 70);
        let hip = [x, y, 0.5 * tall];
        for (side, swing) in [(-0.1, swing), (0.1, -swing)] {
            let knee = [x + side + swing * 0.5, y, 0.27 * tall];
            let foot = [x + side + swing, y - swing.abs() * 0.1, 0.05 + 0.12 * swing.max(0.0)];
            canvas.bar([x + side, y, 0.48 * tall], knee, 0.2, self.kit.shorts);
            canvas.bar(knee, foot, 0.13, self.kit.socks);
        }
        let neck = [x + swing * 0.1, y, 0.84 * tall];
        canvas.bar(hip, [x, y, 0.42 * tall], 0.36, self.kit.shorts);
        canvas.bar([x, y, 0.52 * tall], [neck[0], y, 0.76 * tall], 0.4, self.kit.shirt);
        for (side, swing) in [(-0.26, -swing), (0.26, swing)] {
            let elbow = [x + side * 1.25 + swing * 0.25, y - 0.05, 0.62 * tall];
            let hand = [elbow[0] + swing * 0.5 + side * 0.2, y - 0.2, 0.56 * tall + swing.abs() * 0.25];
            canvas.bar([x + side, y, 0.78 * tall], elbow, 0.14, self.kit.shirt);
            canvas.bar(elbow, hand, 0.1, skin);
            if side > 0.0 {
                self.hold(canvas, hand);
            }
        }
        canvas.ball([neck[0], y, 0.92 * tall], 0.125, skin);
        canvas.ball([neck[0], y + 0.03, 0.955 * tall], 0.125, self.kit.head);
    }

    /// Draws the farthest player first.
    pub fn draw_all(players: impl Iterator<Item = Self>, canvas: &mut Canvas) {
        let mut players: Vec<Self> = players.collect();
        players.sort_by(|a, b| b.at[1].total_cmp(&a.at[1]));
        players.iter().for_each(|player| player.draw(canvas));
    }

    fn hold(&self, canvas: &mut Canvas, [x, y, z]: Point) {
        match self.holds {
            Holds::Nothing => {}
            Holds::Racket => {
                let head = [x + 0.34, y, z + 0.42];
                canvas.bar([x, y, z], [x + 0.2, y, z + 0.25], 0.05, [30, 30, 34]);
                canvas.ball(head, 0.17, [40, 40, 46]);
                canvas.ball(head, 0.13, [226, 226, 214]);
            }
            Holds::Stick => {
                let blade = [x + 0.75, y - 0.4, 0.05];
                canvas.bar([x - 0.1, y, z + 0.25], blade, 0.05, [38, 32, 28]);
                canvas.bar(blade, [x + 1.05, y - 0.4, 0.06], 0.09, [24, 24, 26]);
            }
        }
    }
}

/// Rows of spectators that rise away from the pitch.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    /// The ends of the lowest row.
    pub from: [f32; 2],
    pub to: [f32; 2],
    /// Direction in which the rows go back, of length 1.
    pub back: [f32; 2],
    pub bottom: f32,
    pub rows: u32,
    /// Share of the seats that are taken.
    pub taken: f32,
}

impl Stand {
    pub fn draw(&self, canvas: &mut Canvas, seconds: f32) {
        let (depth, rise, seat) = (0.85, 0.42, 0.62);
        let rows = self.rows as f32;
        let back = |[x, y]: [f32; 2], row: f32| [x + self.back[0] * row * depth, y + self.back[1] * row * depth];
        let at = |[x, y]: [f32; 2], row: f32| [x, y, self.bottom + row * rise];
        canvas.shape(
            &[at(self.from, 0.0), at(self.to, 0.0), at(back(self.to, rows), rows), at(back(self.from, rows), rows)],
            [52, 54, 62],
        );
        let (dx, dy) = (self.to[0] - self.from[0], self.to[1] - self.from[1]);
        let seats = ((dx * dx + dy * dy).sqrt() / seat) as u32;
        for row in (0..self.rows).rev() {
            for n in 0..seats {
                let seed = row * 4099 + n;
                if chance(seed) > self.taken {
                    continue;
                }
                let part = (n as f32 + 0.5) / seats as f32;
                let [x, y] = back([self.from[0] + dx * part, self.from[1] + dy * part], row as f32);
                let lift = 0.08 * (seconds * (2.0 + 3.0 * chance(seed ^ 5)) + 7.0 * chance(seed ^ 9)).sin().max(0.0);
                let z = self.bottom + row as f32 * rise + 0.45 + lift;
                let shirt = CROWD[(chance(seed ^ 3) * 3.0) as usize % 3];
                let shade = 0.6 + 0.4 * chance(seed ^ 21);
                canvas.speck([x, y, z], 0.5, shirt.map(|v| (f32::from(v) * shade) as u8));
                canvas.speck([x, y, z + 0.36], 0.24, SKIN[(chance(seed ^ 13) * 4.0) as usize % 4]);
            }
        }
    }
}
