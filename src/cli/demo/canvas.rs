//! Draws the demonstration's scenes in perspective: points of a scene are metres, x to the right, y away from the camera, z up.

use tiny_skia::{Color, FillRule, LineCap, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform};

/// A point of a scene, metres.
pub type Point = [f32; 3];

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// Distance from the camera below which nothing is drawn, metres.
const NEAR: f32 = 0.3;

/// A camera without distortion.
#[derive(Clone, Copy, Debug)]
pub struct Camera {
    at: Point,
    right: Point,
    up: Point,
    forward: Point,
    /// Size of one metre at a distance of one metre, pixels.
    focal: f32,
    centre: [f32; 2],
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn unit(a: Point) -> Point {
    let length = dot(a, a).sqrt();
    a.map(|v| v / length)
}

impl Camera {
    /// The point between two points of the view; `at` is 0 at the first and 1 at the second.
    fn clipped(&self, from: Point, to: Point) -> Point {
        let (a, b) = (self.depth(from) - NEAR, self.depth(to) - NEAR);
        let part = a / (a - b);
        [0, 1, 2].map(|axis| from[axis] + part * (to[axis] - from[axis]))
    }

    fn depth(&self, point: Point) -> f32 {
        dot(minus(point, self.at), self.forward)
    }

    /// Position of a point in pixels, and pixels per metre at its distance; [`None`] behind the camera.
    fn project(&self, point: Point) -> Option<([f32; 2], f32)> {
        let from = minus(point, self.at);
        let depth = dot(from, self.forward);
        let scale = self.focal / depth;
        let pixel = [self.centre[0] + scale * dot(from, self.right), self.centre[1] - scale * dot(from, self.up)];
        (depth >= NEAR * 0.999).then_some((pixel, scale))
    }
}

/// A picture that is being drawn.
pub struct Canvas {
    pixmap: Pixmap,
    camera: Camera,
}

fn paint(colour: Rgb, alpha: u8) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color(Color::from_rgba8(colour[0], colour[1], colour[2], alpha));
    paint.anti_alias = true;
    paint
}

impl Canvas {
    /// A picture of `width` × `height` pixels.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn new(width: u32, height: u32) -> Self {
        let camera = Camera {
            at: [0.0; 3],
            right: [1.0, 0.0, 0.0],
            up: [0.0, 0.0, 1.0],
            forward: [0.0, 1.0, 0.0],
            focal: 1.0,
            centre: [width as f32 / 2.0, height as f32 / 2.0],
        };
        Self { pixmap: Pixmap::new(width, height).expect("a picture has pixels"), camera }
    }

    /// Begins a picture of one colour, seen from `at` towards `to`. The view is `angle` degrees wide.
    pub fn begin(&mut self, background: Rgb, at: Point, to: Point, angle: f32) {
        let [red, green, blue] = background;
        self.pixmap.fill(Color::from_rgba8(red, green, blue, 255));
        let forward = unit(minus(to, at));
        let right = unit(cross(forward, [0.0, 0.0, 1.0]));
        let width = self.pixmap.width() as f32;
        let focal = width / 2.0 / (angle.to_radians() / 2.0).tan();
        self.camera = Camera { at, right, up: cross(right, forward), forward, focal, ..self.camera };
    }

    /// Appends the pixels, packed RGB8.
    pub fn read(&self, pixels: &mut Vec<u8>) {
        pixels.extend(self.pixmap.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]));
    }

    fn fill(&mut self, path: Option<Path>, colour: Rgb, alpha: u8) {
        if let Some(path) = path {
            self.pixmap.fill_path(&path, &paint(colour, alpha), FillRule::Winding, Transform::identity(), None);
        }
    }

    /// Fills a flat shape. The part behind the camera is cut off.
    pub fn shape(&mut self, points: &[Point], colour: Rgb) {
        self.glaze(points, colour, 255);
    }

    /// As [`Self::shape`], not opaque.
    pub fn glaze(&mut self, points: &[Point], colour: Rgb, alpha: u8) {
        let mut inside = Vec::with_capacity(points.len() + 2);
        for (i, point) in points.iter().enumerate() {
            let next = points[(i + 1) % points.len()];
            let (is_here, is_there) = (self.camera.depth(*point) >= NEAR, self.camera.depth(next) >= NEAR);
            if is_here {
                inside.push(*point);
            }
            if is_here != is_there {
                inside.push(self.camera.clipped(*point, next));
            }
        }
        let mut path = PathBuilder::new();
        for (i, point) in inside.iter().enumerate() {
            let Some(([x, y], _)) = self.camera.project(*point) else { return };
            if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
        }
        path.close();
        self.fill(path.finish(), colour, alpha);
    }

    /// A rectangle on the ground: from (`x`, `y`) to (`x2`, `y2`).
    pub fn ground(&mut self, [x, y, x2, y2]: [f32; 4], colour: Rgb) {
        self.shape(&[[x, y, 0.0], [x2, y, 0.0], [x2, y2, 0.0], [x, y2, 0.0]], colour);
    }

    /// A wall over the line from `from` to `to`, `height` metres high.
    pub fn wall(&mut self, from: [f32; 2], to: [f32; 2], [bottom, top]: [f32; 2], colour: Rgb) {
        let corner = |[x, y]: [f32; 2], z: f32| [x, y, z];
        self.shape(&[corner(from, bottom), corner(to, bottom), corner(to, top), corner(from, top)], colour);
    }

    /// A painted line on the ground, `width` metres wide.
    pub fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, colour: Rgb) {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = (dx * dx + dy * dy).sqrt().max(1e-6);
        let (nx, ny) = (-dy / length * width / 2.0, dx / length * width / 2.0);
        self.shape(
            &[
                [from[0] + nx, from[1] + ny, 0.0],
                [to[0] + nx, to[1] + ny, 0.0],
                [to[0] - nx, to[1] - ny, 0.0],
                [from[0] - nx, from[1] - ny, 0.0],
            ],
            colour,
        );
    }

    /// The outline of a rectangle on the ground.
    pub fn outline(&mut self, [x, y, x2, y2]: [f32; 4], width: f32, colour: Rgb) {
        for (from, to) in [([x, y], [x2, y]), ([x2, y], [x2, y2]), ([x2, y2], [x, y2]), ([x, y2], [x, y])] {
            self.line(from, to, width, colour);
        }
    }

    /// An arc on the ground around `centre`, from one angle to another, degrees.
    pub fn arc(&mut self, centre: [f32; 2], radius: f32, [from, to]: [f32; 2], width: f32, colour: Rgb) {
        let steps = 24;
        let at = |step: usize| {
            let angle = (from + (to - from) * step as f32 / steps as f32).to_radians();
            [centre[0] + radius * angle.cos(), centre[1] + radius * angle.sin()]
        };
        for step in 0..steps {
            self.line(at(step), at(step + 1), width, colour);
        }
    }

    /// A disc on the ground.
    pub fn disc(&mut self, [x, y]: [f32; 2], radius: f32, colour: Rgb, alpha: u8) {
        let points: Vec<Point> = (0..16)
            .map(|step| {
                let angle = step as f32 / 16.0 * std::f32::consts::TAU;
                [x + radius * angle.cos(), y + radius * angle.sin(), 0.0]
            })
            .collect();
        self.glaze(&points, colour, alpha);
    }

    /// A ball.
    pub fn ball(&mut self, centre: Point, radius: f32, colour: Rgb) {
        let Some(([x, y], scale)) = self.camera.project(centre) else { return };
        // A ball that is far away still has a pixel.
        self.fill(PathBuilder::from_circle(x, y, (radius * scale).max(0.7)), colour, 255);
    }

    /// A round bar between two points.
    pub fn bar(&mut self, from: Point, to: Point, width: f32, colour: Rgb) {
        let (Some(([x, y], scale)), Some(([x2, y2], _))) = (self.camera.project(from), self.camera.project(to)) else {
            return;
        };
        let mut path = PathBuilder::new();
        path.move_to(x, y);
        path.line_to(x2, y2);
        let stroke = Stroke { width: (width * scale).max(0.6), line_cap: LineCap::Round, ..Stroke::default() };
        if let Some(path) = path.finish() {
            self.pixmap.stroke_path(&path, &paint(colour, 255), &stroke, Transform::identity(), None);
        }
    }

    /// A rectangle on the screen, in shares of its width and height.
    pub fn panel(&mut self, [x, y, width, height]: [f32; 4], colour: Rgb) {
        let (w, h) = (self.pixmap.width() as f32, self.pixmap.height() as f32);
        if let Some(rect) = Rect::from_xywh(x * w, y * h, width * w, height * h) {
            self.pixmap.fill_rect(rect, &paint(colour, 255), Transform::identity(), None);
        }
    }

    /// A small square that faces the camera: a spectator, foam.
    pub fn speck(&mut self, at: Point, side: f32, colour: Rgb) {
        let Some(([x, y], scale)) = self.camera.project(at) else { return };
        let side = (side * scale).max(0.8);
        if let Some(rect) = Rect::from_xywh(x - side / 2.0, y - side / 2.0, side, side) {
            let mut paint = paint(colour, 255);
            paint.anti_alias = false;
            self.pixmap.fill_rect(rect, &paint, Transform::identity(), None);
        }
    }
}
