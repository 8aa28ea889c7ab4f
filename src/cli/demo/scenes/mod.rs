//! The scenes: sports as television shows them, a studio, and colour bars.

mod ball_games;

use super::canvas::{Canvas, Rgb};
use super::people::{Holds, Kit, Player, Stand, chance};
use ball_games::{basketball, soccer, tennis};

const WHITE: Rgb = [238, 240, 240];

/// A scene of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    Tennis,
    Soccer,
    Basketball,
    IceHockey,
    Swimming,
    Athletics,
    Studio,
    Bars,
}

impl Scene {
    /// The correct class; [`None`] for colour bars, which count as no programme.
    pub const fn class(self) -> Option<&'static str> {
        match self {
            Scene::Tennis => Some("tennis"),
            Scene::Soccer => Some("soccer"),
            Scene::Basketball => Some("basketball"),
            Scene::IceHockey => Some("icehockey"),
            Scene::Swimming => Some("swimming"),
            Scene::Athletics => Some("athletics"),
            Scene::Studio => Some("other"),
            Scene::Bars => None,
        }
    }

    /// Draws the scene `seconds` after its start.
    pub fn draw(self, canvas: &mut Canvas, seconds: f32) {
        match self {
            Scene::Tennis => tennis(canvas, seconds),
            Scene::Soccer => soccer(canvas, seconds),
            Scene::Basketball => basketball(canvas, seconds),
            Scene::IceHockey => ice_hockey(canvas, seconds),
            Scene::Swimming => swimming(canvas, seconds),
            Scene::Athletics => athletics(canvas, seconds),
            Scene::Studio => studio(canvas, seconds),
            Scene::Bars => bars(canvas),
        }
    }
}

const fn kit(shirt: Rgb, shorts: Rgb, socks: Rgb, head: Rgb) -> Kit {
    Kit { shirt, shorts, socks, head }
}

const HAIR: Rgb = [44, 34, 28];

/// Oscillates between -1 and 1.
fn sway(seconds: f32, period: f32, phase: f32) -> f32 {
    ((seconds / period + phase) * std::f32::consts::TAU).sin()
}

fn boards(canvas: &mut Canvas, from: [f32; 2], to: [f32; 2], height: f32, colours: &[Rgb]) {
    let n = colours.len() as f32;
    for (i, colour) in colours.iter().enumerate() {
        let part = |k: f32| [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * k / n);
        canvas.wall(part(i as f32), part(i as f32 + 1.0), [0.0, height], *colour);
        // A sign on each.
        let sign = [part(i as f32 + 0.25), part(i as f32 + 0.75)];
        canvas.wall(sign[0], sign[1], [height * 0.35, height * 0.65], WHITE);
    }
}

fn ice_hockey(canvas: &mut Canvas, seconds: f32) {
    let (ice, red, blue) = ([232, 240, 246], [196, 40, 48], [40, 80, 176]);
    let pan = 1.2 * sway(seconds, 9.0, 0.0);
    canvas.begin([24, 26, 34], [18.5 + pan, -23.3, 9.6], [15.4 + pan, 2.9, 0.7], 40.8);
    Stand { from: [-30.0, 18.0], to: [45.0, 18.0], back: [0.0, 1.0], bottom: 1.6, rows: 16, taken: 0.92 }
        .draw(canvas, seconds);
    canvas.ground([-40.0, -24.0, 45.0, 18.0], [70, 72, 78]);
    canvas.ground([-30.0, -15.0, 30.0, 15.0], ice);
    for (x, width, colour) in [(0.0, 0.3, red), (-8.8, 0.3, blue), (8.8, 0.3, blue), (26.0, 0.08, red)] {
        canvas.line([x, -15.0], [x, 15.0], width, colour);
    }
    canvas.arc([0.0, 0.0], 4.5, [0.0, 360.0], 0.1, blue);
    for y in [-7.0, 7.0] {
        canvas.arc([20.0, y], 4.5, [0.0, 360.0], 0.1, red);
        canvas.disc([20.0, y], 0.35, red, 255);
        canvas.disc([10.6, y], 0.35, red, 255);
    }
    canvas.disc([25.3, 0.0], 1.6, [120, 176, 226], 255);
    // Advertisements under the ice.
    canvas.ground([3.0, -11.0, 7.0, -9.0], [210, 190, 60]);
    canvas.ground([12.0, 9.5, 17.0, 11.5], [90, 130, 200]);
    let signs =
        [[40, 80, 176], [240, 240, 240], [200, 60, 50], [240, 240, 240], [30, 30, 36], [240, 220, 90], [240, 240, 240]];
    boards(canvas, [-30.0, 15.0], [30.0, 15.0], 1.1, &signs);
    boards(canvas, [30.0, 15.0], [30.0, -15.0], 1.1, &signs[..4]);
    canvas.wall([-30.0, 15.0], [30.0, 15.0], [0.0, 0.2], [232, 200, 60]);
    let glass = [[-30.0, 15.0, 1.1], [30.0, 15.0, 1.1], [30.0, 15.0, 2.9], [-30.0, 15.0, 2.9]];
    canvas.glaze(&glass, [200, 220, 236], 40);
    for y in [-0.92, 0.92] {
        canvas.bar([26.0, y, 0.0], [26.0, y, 1.22], 0.1, red);
    }
    canvas.bar([26.0, -0.92, 1.22], [26.0, 0.92, 1.22], 0.1, red);
    canvas.glaze(&[[26.0, -0.92, 0.0], [27.0, -0.7, 0.0], [27.0, 0.7, 1.0], [26.0, 0.92, 1.2]], WHITE, 120);
    let puck = [14.0 + 8.0 * sway(seconds, 4.1, 0.0), 8.0 * sway(seconds, 5.3, 0.4)];
    let players = (0..11).map(|n| {
        let home = [4.0 + 20.0 * chance(n * 5 + 1), -11.0 + 22.0 * chance(n * 5 + 2)];
        let pull = 0.2 + 0.3 * chance(n + 20);
        let drift = [3.0 * sway(seconds, 3.4 + chance(n), chance(n + 9)), 2.0 * sway(seconds, 4.1, chance(n + 4))];
        let at = [0, 1].map(|axis| home[axis] * (1.0 - pull) + puck[axis] * pull + drift[axis]);
        let kit = match n % 2 {
            0 => kit([198, 36, 44], [40, 40, 60], [198, 36, 44], [30, 30, 34]),
            _ => kit([246, 246, 248], [28, 48, 110], [246, 246, 248], [240, 240, 244]),
        };
        let at = if n == 10 { [25.0, 0.3 * sway(seconds, 3.0, 0.0)] } else { at };
        Player {
            at,
            kit,
            holds: Holds::Stick,
            steps: seconds * 0.9 + chance(n),
            stride: 0.45,
            height: 0.96,
            seed: n + 90,
        }
    });
    Player::draw_all(players, canvas);
    canvas.ball([puck[0], puck[1], 0.05], 0.12, [16, 16, 18]);
}

fn swimming(canvas: &mut Canvas, seconds: f32) {
    let (water, skin) = ([44, 150, 204], [222, 170, 138]);
    let follow = 1.3 * seconds;
    canvas.begin([200, 206, 210], [0.5, follow - 0.7, 8.4], [0.0, follow + 2.0, 0.2], 64.0);
    canvas.ground([-60.0, follow - 90.0, 60.0, follow + 60.0], water);
    // Light on the water.
    let first = ((follow - 40.0) * 6.0) as i32;
    for n in first..first + 290 {
        for side in 0..3u32 {
            let seed = (n as u32).wrapping_mul(3).wrapping_add(side);
            let (x, y) = (-9.0 + 18.0 * chance(seed), n as f32 / 6.0);
            let shift = 0.2 * sway(seconds, 1.1 + chance(seed ^ 1), chance(seed ^ 2));
            let light = if seed.is_multiple_of(2) { [120, 204, 236] } else { [24, 118, 178] };
            let long = 0.3 + 0.5 * chance(seed ^ 4);
            canvas.line([x + shift - long, y], [x + shift + long, y + 0.05], 0.08, light);
        }
    }
    for lane in 0..5 {
        let x = -5.0 + 2.5 * lane as f32;
        let first = ((follow - 45.0) / 0.3) as i32;
        for piece in first..first + 175 {
            let y = piece as f32 * 0.3;
            let colour = if piece.rem_euclid(6) < 3 { [206, 40, 48] } else { WHITE };
            canvas.ball([x, y, 0.04], 0.1, colour);
        }
    }
    for lane in 0..4u32 {
        let x = -3.75 + 2.5 * lane as f32;
        let y = follow + [0.7, 1.5, -0.8, 0.2][lane as usize] + 0.2 * sway(seconds, 3.0, chance(lane));
        let cap = [[250, 250, 250], [228, 196, 40], [30, 40, 90], [210, 40, 44]][lane as usize % 4];
        let stroke = (seconds * 0.85 + chance(lane + 30)).fract();
        let frame = (seconds * 12.0) as u32;
        // Foam behind the feet.
        for n in 0..90 {
            let seed = lane * 977 + n + frame * 131;
            let foam = [x - 0.5 + chance(seed), y - 2.5 + 1.3 * chance(seed ^ 3), 0.3 * chance(seed ^ 5)];
            canvas.speck(foam, 0.11, [226, 242, 250]);
        }
        canvas.bar([x, y - 1.5, 0.0], [x, y + 0.1, 0.1], 0.34, skin);
        canvas.bar([x, y - 1.2, 0.02], [x, y - 0.8, 0.06], 0.36, [20, 24, 50]);
        canvas.bar([x - 0.2, y + 0.05, 0.1], [x + 0.2, y + 0.05, 0.1], 0.24, skin);
        let angle = (2.0 * stroke).fract() * std::f32::consts::PI;
        let side = if stroke < 0.5 { 1.0 } else { -1.0 };
        let elbow = [x + side * 0.5, y + 0.1 + 0.3 * angle.cos(), 0.1 + 0.45 * angle.sin()];
        let hand = [x + side * 0.4, y + 0.15 - 0.75 * angle.cos(), 0.05 + 0.5 * angle.sin()];
        canvas.bar([x + side * 0.24, y + 0.05, 0.12], elbow, 0.14, skin);
        canvas.bar(elbow, hand, 0.11, skin);
        canvas.ball([x, y + 0.34, 0.13], 0.15, skin);
        canvas.ball([x, y + 0.3, 0.19], 0.155, cap);
        canvas.bar([x - 0.1, y + 0.46, 0.14], [x + 0.1, y + 0.46, 0.14], 0.06, [20, 20, 24]);
        for n in 0..34 {
            let seed = lane * 613 + n + frame * 77;
            let foam =
                [x + side * 0.4 + 0.8 * chance(seed) - 0.4, y + 0.3 + 0.7 * chance(seed ^ 3), 0.3 * chance(seed ^ 5)];
            canvas.speck(foam, 0.09, [240, 248, 252]);
        }
    }
}

fn athletics(canvas: &mut Canvas, seconds: f32) {
    let (track, line) = ([182, 84, 62], WHITE);
    let run = 24.0 + 1.2 * sway(seconds, 7.0, 0.0);
    canvas.begin([150, 184, 214], [-13.5, 6.4, 7.1], [0.85, 10.5, 1.5], 54.7);
    Stand { from: [14.0, -5.0], to: [14.0, 110.0], back: [1.0, 0.0], bottom: 2.0, rows: 22, taken: 0.9 }
        .draw(canvas, seconds);
    Stand { from: [-70.0, 112.0], to: [40.0, 112.0], back: [0.0, 1.0], bottom: 2.0, rows: 24, taken: 0.9 }
        .draw(canvas, seconds);
    canvas.ground([-80.0, -30.0, 60.0, 112.0], [84, 140, 66]);
    canvas.ground([-5.2, -30.0, 6.2, 112.0], track);
    for lane in 0..=8 {
        let x = -4.4 + 1.22 * lane as f32;
        canvas.line([x, -30.0], [x, 112.0], 0.06, line);
    }
    for y in [2.0, 20.0] {
        canvas.line([-4.4, y], [5.36, y], 0.06, line);
    }
    boards(
        canvas,
        [9.0, 100.0],
        [9.0, 0.0],
        1.0,
        &[[30, 60, 150], [200, 40, 40], [30, 60, 150], [240, 190, 40], [20, 110, 80]],
    );
    let runners = (0..8u32).map(|lane| {
        let at = [-3.79 + 1.22 * lane as f32, run - 18.0 + 3.5 * chance(lane + 11) + 4.0];
        let shirt = [
            [220, 190, 40],
            [30, 60, 160],
            [210, 40, 44],
            [40, 140, 80],
            [240, 240, 240],
            [120, 40, 140],
            [250, 120, 30],
            [20, 24, 30],
        ][lane as usize];
        let kit = kit(shirt, shirt.map(|v| v / 2), SKIN_LEG, HAIR);
        Player {
            at,
            kit,
            holds: Holds::Nothing,
            steps: seconds * 2.1 + chance(lane),
            stride: 0.42,
            height: 1.02,
            seed: lane + 17,
        }
    });
    Player::draw_all(runners, canvas);
}

const SKIN_LEG: Rgb = [150, 104, 76];

fn studio(canvas: &mut Canvas, seconds: f32) {
    canvas.begin([18, 26, 58], [0.0, -5.2, 1.55], [0.0, 0.0, 1.25], 42.0);
    canvas.ground([-8.0, -6.0, 8.0, 3.0], [34, 40, 66]);
    for n in 0..8 {
        let x = -4.0 + n as f32;
        let shade = 30 + 10 * (n % 3) as u8;
        canvas.wall([x, 2.4], [x + 0.92, 2.4], [0.0, 3.4], [shade / 2, shade, 2 * shade + 40]);
    }
    // A screen with a map.
    canvas.wall([-2.7, 2.2], [-0.5, 2.2], [1.1, 2.5], [200, 214, 226]);
    canvas.wall([-2.6, 2.15], [-0.6, 2.15], [1.2, 2.4], [40, 96, 150]);
    canvas.wall([-2.2, 2.12], [-1.2, 2.12], [1.5, 2.1], [90, 160, 96]);
    let nod = 0.02 * sway(seconds, 2.6, 0.0);
    let at = 0.55 + 0.03 * sway(seconds, 7.0, 0.0);
    canvas.bar([at, 0.6, 0.6], [at, 0.6, 1.15], 0.62, [38, 44, 56]);
    canvas.bar([at - 0.3, 0.6, 1.22], [at + 0.3, 0.6, 1.22], 0.24, [38, 44, 56]);
    canvas.bar([at, 0.52, 1.0], [at, 0.52, 1.3], 0.16, [236, 238, 242]);
    canvas.bar([at, 0.5, 0.95], [at, 0.5, 1.24], 0.06, [160, 40, 50]);
    canvas.bar([at, 0.6, 1.25], [at, 0.6, 1.4], 0.15, [214, 168, 138]);
    canvas.ball([at, 0.6, 1.58 + nod], 0.16, [224, 178, 148]);
    canvas.ball([at, 0.66, 1.65 + nod], 0.16, [60, 44, 34]);
    canvas.shape(&[[-1.6, 0.2, 0.86], [2.4, 0.2, 0.86], [2.1, -0.5, 0.8], [-1.3, -0.5, 0.8]], [214, 220, 230]);
    canvas.wall([-1.3, -0.5], [2.1, -0.5], [0.1, 0.8], [70, 84, 130]);
    canvas.wall([-1.2, -0.52], [2.0, -0.52], [0.62, 0.7], [190, 60, 66]);
    canvas.panel([0.06, 0.78, 0.62, 0.1], [178, 30, 40]);
    canvas.panel([0.06, 0.88, 0.8, 0.06], [236, 238, 242]);
    for n in 0..9 {
        let width = 0.03 + 0.05 * chance(n + 1);
        canvas.panel([0.09 + 0.06 * n as f32, 0.81, width * 0.6, 0.035], WHITE);
        canvas.panel([0.08 + 0.08 * n as f32, 0.9, width * 0.8, 0.02], [60, 66, 80]);
    }
}

/// Colour bars at 75 %, as SMPTE RP 219 orders them.
fn bars(canvas: &mut Canvas) {
    let colours: [Rgb; 7] =
        [[191, 191, 191], [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0], [0, 0, 191]];
    for (n, colour) in colours.into_iter().enumerate() {
        canvas.panel([n as f32 / 7.0, 0.0, 1.0 / 7.0 + 0.01, 1.0], colour);
    }
}
