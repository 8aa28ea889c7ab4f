//! Tennis, soccer and basketball.

use super::super::canvas::Canvas;
use super::super::people::{Holds, Player, Stand, chance};
use super::{HAIR, WHITE, boards, kit, sway};

pub(super) fn tennis(canvas: &mut Canvas, seconds: f32) {
    let (court, surround, line) = ([58, 104, 172], [60, 124, 96], WHITE);
    canvas.begin([22, 26, 36], [0.3 * sway(seconds, 9.0, 0.0), -25.5, 9.6], [0.0, -1.0, 0.0], 47.0);
    Stand { from: [-26.0, 23.0], to: [26.0, 23.0], back: [0.0, 1.0], bottom: 2.2, rows: 16, taken: 0.9 }
        .draw(canvas, seconds);
    for side in [-1.0, 1.0] {
        Stand {
            from: [side * 13.0, 22.0],
            to: [side * 13.0, -8.0],
            back: [side, 0.0],
            bottom: 1.6,
            rows: 12,
            taken: 0.85,
        }
        .draw(canvas, seconds);
    }
    canvas.ground([-13.0, -22.0, 13.0, 20.0], surround);
    boards(canvas, [-13.0, 20.0], [13.0, 20.0], 1.3, &[[24, 60, 50], [20, 52, 44], [24, 60, 50], [20, 52, 44]]);
    for side in [-13.0, 13.0] {
        canvas.wall([side, 20.0], [side, -10.0], [0.0, 1.0], [22, 56, 46]);
    }
    canvas.ground([-5.485, -11.885, 5.485, 11.885], court);
    canvas.outline([-5.485, -11.885, 5.485, 11.885], 0.1, line);
    for x in [-4.115, 4.115] {
        canvas.line([x, -11.885], [x, 11.885], 0.07, line);
    }
    for y in [-6.4, 6.4] {
        canvas.line([-4.115, y], [4.115, y], 0.07, line);
    }
    canvas.line([0.0, -6.4], [0.0, 6.4], 0.07, line);
    let far = Player {
        at: [2.4 * sway(seconds, 5.2, 0.1), 12.6],
        kit: kit([240, 240, 236], [240, 240, 236], WHITE, HAIR),
        holds: Holds::Racket,
        steps: seconds * 2.2,
        stride: 0.3,
        height: 0.97,
        seed: 3,
    };
    far.draw(canvas);
    canvas.line([-6.4, 0.06], [6.4, 0.06], 0.25, [46, 82, 138]);
    let net = [[-6.4, 0.0, 0.05], [6.4, 0.0, 0.05], [6.4, 0.0, 1.0], [-6.4, 0.0, 1.0]];
    canvas.glaze(&net, [16, 20, 24], 120);
    canvas.wall([-6.4, 0.0], [6.4, 0.0], [0.93, 1.02], WHITE);
    canvas.bar([0.0, 0.0, 0.0], [0.0, 0.0, 0.95], 0.06, WHITE);
    for x in [-6.4, 6.4] {
        canvas.bar([x, 0.0, 0.0], [x, 0.0, 1.1], 0.1, [40, 60, 50]);
    }
    let near = Player { at: [2.6 * sway(seconds, 5.2, 0.6), -12.9], seed: 8, ..far };
    Player { kit: kit([214, 70, 60], [30, 34, 52], WHITE, HAIR), ..near }.draw(canvas);
    // The umpire beside the net.
    canvas.bar([7.6, 0.0, 0.0], [7.6, 0.0, 2.0], 0.5, [70, 74, 80]);
    canvas.ball([7.6, 0.0, 2.6], 0.2, [200, 160, 130]);
    let rally = seconds / 1.3;
    let (part, to_far) = (rally.fract(), (rally as u32).is_multiple_of(2));
    let along = if to_far { part } else { 1.0 - part };
    let ball = [
        2.5 * sway(seconds, 5.2, 0.6) * (1.0 - along) + 2.3 * sway(seconds, 5.2, 0.1) * along,
        -12.4 + 24.6 * along,
        1.0 + 2.2 * (part * std::f32::consts::PI).sin(),
    ];
    canvas.disc([ball[0], ball[1]], 0.1, [0, 0, 0], 90);
    canvas.ball(ball, 0.09, [222, 238, 84]);
}

pub(super) fn soccer(canvas: &mut Canvas, seconds: f32) {
    let centre = 31.0 + 2.0 * sway(seconds, 17.0, 0.0);
    canvas.begin([28, 32, 40], [centre, -47.0, 13.5], [centre, 0.0, 0.0], 19.0);
    Stand { from: [-40.0, 40.0], to: [75.0, 40.0], back: [0.0, 1.0], bottom: 1.5, rows: 26, taken: 0.95 }
        .draw(canvas, seconds);
    canvas.ground([-80.0, -60.0, 90.0, 40.0], [58, 116, 48]);
    for stripe in 0..20 {
        let x = -52.5 + 5.25 * stripe as f32;
        let colour = if stripe % 2 == 0 { [74, 142, 58] } else { [64, 128, 50] };
        canvas.ground([x, -34.0, x + 5.25, 34.0], colour);
    }
    let colours =
        [[30, 60, 140], [180, 30, 36], [24, 24, 28], [20, 110, 70], [200, 150, 30], [30, 60, 140], [140, 30, 90]];
    boards(canvas, [-30.0, 38.0], [60.0, 38.0], 1.0, &colours);
    boards(canvas, [56.0, 38.0], [56.0, -38.0], 1.0, &colours);
    let line = 0.16;
    canvas.outline([-52.5, -34.0, 52.5, 34.0], line, WHITE);
    canvas.line([0.0, -34.0], [0.0, 34.0], line, WHITE);
    canvas.arc([0.0, 0.0], 9.15, [0.0, 360.0], line, WHITE);
    canvas.outline([36.0, -20.16, 52.5, 20.16], line, WHITE);
    canvas.outline([47.0, -9.16, 52.5, 9.16], line, WHITE);
    canvas.arc([41.5, 0.0], 9.15, [127.0, 233.0], line, WHITE);
    canvas.disc([41.5, 0.0], 0.25, WHITE, 255);
    canvas.arc([52.5, 34.0], 1.0, [180.0, 270.0], line, WHITE);
    let net = [[52.5, 3.66], [54.5, 3.66], [54.5, -3.66], [52.5, -3.66]];
    for side in net.windows(2) {
        let (from, to) = (side[0], side[1]);
        canvas.glaze(
            &[[from[0], from[1], 0.0], [to[0], to[1], 0.0], [to[0], to[1], 2.2], [from[0], from[1], 2.2]],
            WHITE,
            70,
        );
    }
    for y in [-3.66, 3.66] {
        canvas.bar([52.5, y, 0.0], [52.5, y, 2.44], 0.14, WHITE);
    }
    canvas.bar([52.5, -3.66, 2.44], [52.5, 3.66, 2.44], 0.14, WHITE);
    let ball = [centre + 7.0 * sway(seconds, 6.1, 0.2), 9.0 * sway(seconds, 7.7, 0.5)];
    let players = (0..18).map(|n| {
        let home = [centre - 20.0 + 40.0 * chance(n * 7 + 1), -25.0 + 50.0 * chance(n * 7 + 2)];
        let pull = 0.25 + 0.3 * chance(n + 50);
        let at = [0, 1].map(|axis| home[axis] * (1.0 - pull) + ball[axis] * pull);
        let at = [at[0] + 2.0 * sway(seconds, 4.0 + chance(n) * 3.0, chance(n + 9)), at[1]];
        let kit = match n {
            0 => kit([238, 214, 60], [30, 30, 34], [30, 30, 34], HAIR),
            _ if n % 2 == 0 => kit([196, 34, 40], [240, 240, 240], [196, 34, 40], HAIR),
            _ => kit([240, 240, 244], [26, 38, 96], [240, 240, 244], HAIR),
        };
        let at = if n == 0 { [50.8, 1.5 * sway(seconds, 5.0, 0.0)] } else { at };
        let steps = seconds * (1.6 + chance(n + 3)) + chance(n);
        Player { at, kit, holds: Holds::Nothing, steps, stride: 0.36, height: 1.0, seed: n }
    });
    Player::draw_all(players, canvas);
    canvas.disc(ball, 0.2, [0, 0, 0], 90);
    canvas.ball([ball[0], ball[1], 0.3 + 0.8 * sway(seconds, 1.4, 0.0).abs()], 0.2, [250, 250, 250]);
}

pub(super) fn basketball(canvas: &mut Canvas, seconds: f32) {
    let (wood, paint, line) = ([206, 158, 104], [150, 44, 44], WHITE);
    let pan = 0.7 * sway(seconds, 11.0, 0.0);
    canvas.begin([26, 22, 26], [-2.9 + pan, -23.5, 10.8], [5.8 + pan, 1.8, 1.8], 38.2);
    Stand { from: [-18.0, 10.5], to: [24.0, 10.5], back: [0.0, 1.0], bottom: 0.4, rows: 15, taken: 0.93 }
        .draw(canvas, seconds);
    Stand { from: [18.5, 10.0], to: [18.5, -9.0], back: [1.0, 0.0], bottom: 0.4, rows: 12, taken: 0.93 }
        .draw(canvas, seconds);
    canvas.ground([-20.0, -12.0, 18.0, 10.0], [92, 40, 40]);
    canvas.ground([-14.0, -7.5, 14.0, 7.5], wood);
    for plank in 0..30 {
        let y = -7.5 + 0.5 * plank as f32;
        canvas.line([-14.0, y], [14.0, y], 0.025, [190, 142, 90]);
    }
    boards(canvas, [-14.0, 9.6], [16.0, 9.6], 0.85, &[[28, 40, 110], [20, 20, 24], [170, 30, 40], [28, 40, 110]]);
    canvas.ground([8.2, -2.45, 14.0, 2.45], paint);
    canvas.outline([-14.0, -7.5, 14.0, 7.5], 0.08, line);
    canvas.outline([8.2, -2.45, 14.0, 2.45], 0.07, line);
    canvas.arc([8.2, 0.0], 1.8, [90.0, 270.0], 0.07, line);
    canvas.arc([12.42, 0.0], 6.75, [102.0, 258.0], 0.07, line);
    for y in [-6.6, 6.6] {
        canvas.line([11.0, y], [14.0, y], 0.07, line);
    }
    canvas.line([0.0, -7.5], [0.0, 7.5], 0.08, line);
    canvas.arc([0.0, 0.0], 1.8, [0.0, 360.0], 0.07, line);
    // The basket.
    canvas.bar([15.2, 0.0, 0.0], [15.2, 0.0, 2.6], 0.4, [40, 44, 96]);
    canvas.bar([15.2, 0.0, 2.6], [12.9, 0.0, 3.3], 0.22, [40, 44, 96]);
    canvas.wall([12.8, -0.9], [12.8, 0.9], [2.9, 3.95], [232, 236, 240]);
    for (y, z, y2, z2) in
        [(-0.9, 2.9, 0.9, 2.9), (-0.9, 3.95, 0.9, 3.95), (-0.9, 2.9, -0.9, 3.95), (0.9, 2.9, 0.9, 3.95)]
    {
        canvas.bar([12.8, y, z], [12.8, y2, z2], 0.06, [190, 40, 40]);
    }
    for (from, to) in [(0usize, 1), (1, 2), (2, 3), (3, 0)] {
        let rim = [[12.75, -0.23], [12.3, -0.23], [12.3, 0.23], [12.75, 0.23]];
        let at = |i: usize, z: f32, inwards: f32| {
            [rim[i][0] + inwards * (12.52 - rim[i][0]), rim[i][1] * (1.0 - inwards), z]
        };
        canvas.bar(at(from, 3.05, 0.0), at(to, 3.05, 0.0), 0.05, [236, 96, 30]);
        canvas.bar(at(from, 3.05, 0.0), at(to, 2.65, 0.4), 0.025, WHITE);
        canvas.bar(at(from, 3.05, 0.0), at(from, 2.65, 0.4), 0.025, WHITE);
    }
    let ball = [9.0 + 2.6 * sway(seconds, 4.3, 0.0), 3.0 * sway(seconds, 5.3, 0.3)];
    let players = (0..10).map(|n| {
        let home = [6.2 + 6.8 * chance(n * 3 + 1), -6.2 + 12.4 * ((n as f32 * 0.37) % 1.0)];
        let at = [
            home[0] + 0.8 * sway(seconds, 3.0 + chance(n), chance(n + 5)),
            home[1] + 0.6 * sway(seconds, 4.0, chance(n)),
        ];
        let kit = if n % 2 == 0 {
            kit([246, 246, 246], [246, 246, 246], WHITE, HAIR)
        } else {
            kit([92, 36, 140], [92, 36, 140], WHITE, HAIR)
        };
        let steps = seconds * (1.5 + chance(n + 3)) + chance(n);
        Player { at, kit, holds: Holds::Nothing, steps, stride: 0.28, height: 1.08, seed: n + 40 }
    });
    Player::draw_all(players, canvas);
    canvas.ball([ball[0], ball[1], 0.3 + 1.2 * sway(seconds, 1.1, 0.0).abs()], 0.16, [222, 112, 40]);
}
