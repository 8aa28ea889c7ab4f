// The grid of the wall: as few pixels unused as possible, and the way of the arrow keys over it.

// Height of the strip below a picture, as a share of the tile's width: see wall.css.
const STRIP = 0.052;
const GAP = 8;
// Below the footer, or in its place.
const MARGIN = 12;
// Below this the page scrolls: a label of 11 % of the width must stay readable.
const LEAST = 150;
const PHONE = 600;

// Sets the columns of `list` so that `count` tiles are as large as its room allows.
export function layOut(list, count) {
  const width = list.clientWidth;
  const footer = document.querySelector("footer").offsetHeight;
  const height = innerHeight - list.getBoundingClientRect().top - scrollY - footer - MARGIN;
  const aspect = 9 / 16 + STRIP;
  let best = { columns: 1, wide: 0 };
  for (let columns = 1; columns <= Math.max(1, count); columns++) {
    const rows = Math.ceil(count / columns);
    const wide = Math.min((width - (columns - 1) * GAP) / columns, ((height - (rows - 1) * GAP) / rows) / aspect);
    if (wide > best.wide) best = { columns, wide };
  }
  if (width < PHONE) best = count > 1 ? { columns: 2, wide: (width - GAP) / 2 } : { columns: 1, wide: width };
  else if (best.wide < LEAST) {
    const columns = Math.max(1, Math.floor((width + GAP) / (LEAST + GAP)));
    best = { columns, wide: (width - (columns - 1) * GAP) / columns };
  }
  list.style.setProperty("--columns", best.columns);
  list.style.setProperty("--wide", `${Math.floor(best.wide)}px`);
}

// The index of the tile that `key` leads to from the tile `at`, or null if it is not a key of the grid.
export function neighbour(key, elements, at) {
  if (!elements.length) return null;
  const columns = elements.filter((element) => element.offsetTop === elements[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (key === "Home") return 0;
  if (key === "End") return elements.length - 1;
  if (step === undefined) return null;
  const next = at + step;
  return next >= 0 && next < elements.length ? next : at;
}
