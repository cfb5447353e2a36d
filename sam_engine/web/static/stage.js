// A canvas that shows an image: fitted, zoomed, moved. What lies on it is drawn by whoever made it.

const MIN_SCALE = 0.02, MAX_SCALE = 64;

export class Stage {
  /** `draw(context, scale)` draws in pixels of the image; `signal` ends listening. */
  constructor({ root, canvas, draw, signal }) {
    Object.assign(this, { root, canvas, draw, width: 1, height: 1, scale: 1, left: 0, top: 0 });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), ...this.onStage(event));
    }, { passive: false });
    const observer = new ResizeObserver(() => this.fit());
    observer.observe(root);
    signal.addEventListener("abort", () => observer.disconnect());
  }

  /** Show an image of this size as large as fits. */
  fit(width = this.width, height = this.height) {
    const { clientWidth, clientHeight } = this.root;
    Object.assign(this, { width, height });
    this.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.left = (clientWidth - width * this.scale) / 2;
    this.top = (clientHeight - height * this.scale) / 2;
    this.redraw();
  }

  /** Enlarge by a factor, so that a point of the stage stays where it is; the middle, if none is given. */
  zoom(factor, x = this.root.clientWidth / 2, y = this.root.clientHeight / 2) {
    const scale = Math.min(MAX_SCALE, Math.max(MIN_SCALE, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.redraw();
  }

  /** Move by pixels of the stage. */
  move(x, y) {
    this.left += x;
    this.top += y;
    this.redraw();
  }

  /** Return where a pointer is, in pixels of the stage. */
  onStage({ clientX, clientY }) {
    const box = this.root.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  /** Return where a pointer is, in pixels of the image, the first pixel's centre at 0. */
  toImage(event) {
    const [x, y] = this.onStage(event);
    return [(x - this.left) / this.scale - 0.5, (y - this.top) / this.scale - 0.5];
  }

  /** Return whether a point lies on the image. */
  covers([x, y]) {
    return x >= -0.5 && y >= -0.5 && x < this.width - 0.5 && y < this.height - 0.5;
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { root, canvas, scale } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [root.clientWidth * ratio, root.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.style.width = `${root.clientWidth}px`;
    canvas.style.height = `${root.clientHeight}px`;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(scale * ratio, 0, 0, scale * ratio, this.left * ratio, this.top * ratio);
    context.imageSmoothingEnabled = scale < 2;
    this.draw(context, scale);
  }
}
