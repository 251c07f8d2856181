// The last pattern on a canvas: frame, found and predicted spots; wheel, drag and keys zoom and move it.
// Text from the data only ever becomes ink on the canvas.
const INK = { ground: "#05070a", line: "#4a525e", found: "#56b4e9", unknown: "#b9c0ca", predicted: "#ff9147", text: "#ffd3b0" };
const sign = (hkl) => hkl.map((i) => (i < 0 ? `\u2212${-i}` : `${i}`)).join(" ");

export default {
  template: `<div class="pattern-frame"><canvas ref="canvas" tabindex="0" role="img" :aria-label="label"></canvas></div>`,
  props: { src: String, marks: Object, found: Boolean, predicted: Boolean, contrast: Number, label: String },
  watch: {
    src() { this.load(); },
    found() { this.ask(); },
    predicted() { this.ask(); },
    contrast() { this.shade(); this.ask(); },
  },
  mounted() {
    this.at = { scale: 1, x: 0, y: 0, width: 1, height: 1, whole: true };
    this.greys = null;
    this.drawn = null; // the marks of the frame that is drawn: new ones wait for theirs
    this.shaded = document.createElement("canvas");
    this.ink = this.$refs.canvas.getContext("2d");
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.$el);
    this.listen();
    this.load();
  },
  unmounted() { this.sizes.disconnect(); },
  methods: {
    load() {
      if (!this.src) { this.greys = this.drawn = null; this.ask(); return; }
      const image = new Image();
      const wanted = this.src, marks = this.marks;
      image.onload = () => {
        if (wanted !== this.src) return;
        this.shaded.width = image.naturalWidth;
        this.shaded.height = image.naturalHeight;
        const brush = this.shaded.getContext("2d", { willReadFrequently: true });
        brush.drawImage(image, 0, 0);
        this.greys = brush.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
        this.level = Uint8Array.from({ length: this.greys.data.length / 4 }, (_, i) => this.greys.data[4 * i]);
        this.drawn = marks;
        this.shade();
        if (this.at.whole) this.fit(); else this.ask();
        this.$el.dataset.shown = wanted;
      };
      image.src = wanted;
    },
    shade() {
      if (!this.greys) return;
      const power = 2 ** -(this.contrast || 0);
      const table = Uint8Array.from({ length: 256 }, (_, v) => 255 * (v / 255) ** power);
      const out = this.greys.data;
      for (let i = 0, j = 0; i < this.level.length; i++, j += 4) out[j] = out[j + 1] = out[j + 2] = table[this.level[i]];
      this.shaded.getContext("2d").putImageData(this.greys, 0, 0);
    },
    size() { return (this.drawn && this.drawn.shape) || [1000, 1000]; },
    smallest() { const [rows, cols] = this.size(); return Math.min(this.at.width / cols, this.at.height / rows); },
    resize() {
      const dots = window.devicePixelRatio || 1;
      Object.assign(this.at, { width: Math.max(this.$el.clientWidth, 1), height: Math.max(this.$el.clientHeight, 1) });
      this.$refs.canvas.width = Math.round(this.at.width * dots);
      this.$refs.canvas.height = Math.round(this.at.height * dots);
      this.ink.setTransform(dots, 0, 0, dots, 0, 0);
      if (this.at.whole) this.fit(); else this.keep();
    },
    fit() {
      const [rows, cols] = this.size(), at = this.at;
      at.scale = this.smallest();
      at.x = (cols - at.width / at.scale) / 2 - 0.5;
      at.y = (rows - at.height / at.scale) / 2 - 0.5;
      at.whole = true;
      this.ask();
    },
    zoom(factor, sx = this.at.width / 2, sy = this.at.height / 2) {
      const at = this.at, scale = Math.min(Math.max(at.scale * factor, this.smallest()), 40);
      if (scale <= this.smallest() * 1.001) { this.fit(); return; }
      at.x += sx / at.scale - sx / scale;
      at.y += sy / at.scale - sy / scale;
      at.scale = scale;
      at.whole = false;
      this.keep();
    },
    move(dx, dy) {
      if (this.at.whole) return;
      this.at.x -= dx / this.at.scale;
      this.at.y -= dy / this.at.scale;
      this.keep();
    },
    keep() {
      const [rows, cols] = this.size(), at = this.at;
      at.x = Math.min(Math.max(at.x, -at.width / at.scale / 2), cols - at.width / at.scale / 2);
      at.y = Math.min(Math.max(at.y, -at.height / at.scale / 2), rows - at.height / at.scale / 2);
      this.ask();
    },
    listen() {
      const canvas = this.$refs.canvas, pointers = new Map();
      const place = (e) => { const box = canvas.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
      canvas.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom(1.0015 ** -e.deltaY, ...place(e)); }, { passive: false });
      canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); pointers.set(e.pointerId, place(e)); });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => pointers.delete(e.pointerId));
      canvas.addEventListener("pointermove", (e) => {
        if (!pointers.has(e.pointerId)) return;
        const [x, y] = place(e), [ox, oy] = pointers.get(e.pointerId);
        if (pointers.size === 2) { // two fingers: zoom by the change of their distance
          const [px, py] = [...pointers].find(([id]) => id !== e.pointerId)[1];
          this.zoom(Math.hypot(x - px, y - py) / Math.max(Math.hypot(ox - px, oy - py), 1), (x + px) / 2, (y + py) / 2);
        } else this.move(x - ox, y - oy);
        pointers.set(e.pointerId, [x, y]);
      });
      canvas.addEventListener("dblclick", () => this.fit());
      canvas.addEventListener("keydown", (e) => {
        const keys = { "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), 0: () => this.fit(),
          ArrowLeft: () => this.move(40, 0), ArrowRight: () => this.move(-40, 0), ArrowUp: () => this.move(0, 40), ArrowDown: () => this.move(0, -40) };
        if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
      });
    },
    ask() {
      if (this.asked) return;
      this.asked = true;
      requestAnimationFrame(() => { this.asked = false; this.paint(); });
    },
    paint() {
      const { ink, at } = this, [rows, cols] = this.size();
      const spot = ([c, r]) => [(c - at.x) * at.scale, (r - at.y) * at.scale];
      const seen = ([x, y]) => x > -20 && y > -20 && x < at.width + 20 && y < at.height + 20;
      ink.fillStyle = INK.ground;
      ink.fillRect(0, 0, at.width, at.height);
      const [left, top] = spot([-0.5, -0.5]);
      if (this.greys) {
        ink.imageSmoothingEnabled = at.scale < 3;
        ink.drawImage(this.shaded, left, top, cols * at.scale, rows * at.scale);
      }
      ink.lineWidth = 1;
      ink.strokeStyle = INK.line;
      ink.strokeRect(left, top, cols * at.scale, rows * at.scale);
      if (!this.drawn || !this.drawn.shape) return;
      ink.setLineDash([4, 3]);
      for (const region of this.drawn.blind) {
        const [x, y] = spot(region.centre), [w, h] = region.size.map((s) => s * at.scale);
        ink.beginPath();
        if (region.shape === "circle") ink.ellipse(x, y, w / 2, h / 2, 0, 0, 2 * Math.PI);
        else ink.rect(x - w / 2, y - h / 2, w, h);
        ink.stroke();
      }
      ink.setLineDash([]);
      if (this.found) this.circles(spot, seen);
      if (this.predicted) this.crosses(spot, seen);
    },
    circles(spot, seen) {
      const { ink } = this;
      for (const known of [false, true]) {
        ink.strokeStyle = known ? INK.found : INK.unknown;
        ink.lineWidth = known ? 1.8 : 1.1;
        ink.setLineDash(known ? [] : [2, 2]);
        ink.beginPath();
        this.drawn.found.forEach((place, i) => {
          const p = spot(place);
          if (this.drawn.known[i] !== known || !seen(p)) return;
          ink.moveTo(p[0] + 7, p[1]);
          ink.arc(p[0], p[1], 7, 0, 2 * Math.PI);
        });
        ink.stroke();
      }
      ink.setLineDash([]);
    },
    crosses(spot, seen) {
      const { ink } = this;
      ink.strokeStyle = INK.predicted;
      ink.lineWidth = 1.6;
      ink.beginPath();
      const there = this.drawn.predicted.map(spot);
      for (const p of there.filter(seen)) {
        ink.moveTo(p[0] - 4, p[1] - 4); ink.lineTo(p[0] + 4, p[1] + 4);
        ink.moveTo(p[0] - 4, p[1] + 4); ink.lineTo(p[0] + 4, p[1] - 4);
      }
      ink.stroke();
      ink.font = "12px system-ui, sans-serif";
      ink.strokeStyle = INK.ground;
      ink.fillStyle = INK.text;
      ink.lineWidth = 3;
      const taken = [];
      let room = this.at.whole ? 14 : 60;
      there.forEach((p, i) => {
        if (!room || !seen(p)) return;
        const text = sign(this.drawn.hkl[i]), b = [p[0] + 9, p[1] - 16, p[0] + 11 + ink.measureText(text).width, p[1] + 2];
        if (taken.some((t) => b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3])) return;
        taken.push(b);
        ink.strokeText(text, p[0] + 9, p[1] - 4);
        ink.fillText(text, p[0] + 9, p[1] - 4);
        room -= 1;
      });
    },
  },
};
