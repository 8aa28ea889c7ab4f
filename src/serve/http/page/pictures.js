// The pictures of the wall: one request at a time for all tiles in view, and none while nobody looks.

import { url } from "./base.js";

const MOST = 64;
// The more tiles, the rarer each changes: the work of the browser and of the server stays about the same.
const PER_TILE_MS = 75;
const LEAST_MS = 1000;
const TIMEOUT_MS = 10000;

// `wanted()` gives the tiles that need a picture.
export class Pictures {
  #timer = 0;
  #from = 0;

  constructor(wanted) {
    this.wanted = wanted;
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.#poll(), delay);
  }

  async #poll() {
    const began = performance.now();
    const all = this.wanted();
    // More than one request takes: the next ones follow in turn.
    if (this.#from >= all.length) this.#from = 0;
    const tiles = all.slice(this.#from, this.#from + MOST);
    this.#from += MOST;
    try {
      if (tiles.length) await this.#load(tiles);
    } catch {
      // The connection to the server has its own notice.
    }
    this.#schedule(Math.max(LEAST_MS, tiles.length * PER_TILE_MS) - Math.min(LEAST_MS / 2, performance.now() - began));
  }

  async #load(tiles) {
    const ids = tiles.map(({ id }) => id).join(",");
    const width = Math.max(...tiles.map(({ pixels }) => pixels));
    const answer = await fetch(url(`api/v1/preview?stream=${ids}&width=${width}`), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok || answer.status === 204) return;
    const parts = await answer.formData();
    for (const tile of tiles) {
      const jpeg = parts.get(tile.id);
      if (!jpeg) continue;
      try {
        tile.draw(await createImageBitmap(jpeg), Date.now());
      } catch {
        // A picture that cannot be decoded: the last one stays.
      }
    }
  }
}
