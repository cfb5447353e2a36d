// How long a person works: the time between two movements, but no longer than a pause for thought.

const PAUSE_MS = 30_000;

export class Stopwatch {
  constructor(signal) {
    this.reset();
    const hear = () => this.hear();
    for (const name of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      addEventListener(name, hear, { signal, passive: true, capture: true });
    }
  }

  reset() {
    this.worked = 0;
    this.last = performance.now();
  }

  hear() {
    const now = performance.now();
    this.worked += Math.min(PAUSE_MS, now - this.last);
    this.last = now;
  }

  /** Return the seconds since the last call, and begin again. */
  take() {
    this.hear();
    const seconds = this.worked / 1000;
    this.worked = 0;
    return Math.round(seconds * 100) / 100;
  }
}
