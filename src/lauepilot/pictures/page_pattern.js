// The page's data, switches and drawing. Joined with page_spots.js into one function by page.py.
// Text from the data only ever becomes textContent or ink on the canvas.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, parent, text, attributes) => {
  const svg = parent.namespaceURI === "http://www.w3.org/2000/svg";
  const node = svg ? document.createElementNS(parent.namespaceURI, tag) : document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return parent.appendChild(node);
};

const [rows, cols] = data.shape;
const found = data.found;
const canvas = $("pattern");
const ink = canvas.getContext("2d");
const SHAPES = { answer: "cross", alternative: "plus" };
const GRAIN_SHAPES = ["square", "diamond", "triangle", "cross"];
let grains = 0;
for (const layer of data.layers) {
  layer.shape = SHAPES[layer.kind] || GRAIN_SHAPES[grains % 4];
  layer.colour = layer.kind === "answer" ? "--predicted" : `--other${grains++ % 4}`;
}
const explaining = found.col.map(() => []); // for each found spot the layers' entries, the answer's first
const ranked = [...data.layers].sort((a, b) => (a.kind === "alternative") - (b.kind === "alternative"));
for (const layer of ranked) layer.found.forEach((f, entry) => f >= 0 && explaining[f].push({ layer, entry }));

// ------------------------------------------------------------------------------------------------ switches
const NAMES = ["found", "predicted", "indices", "zones", "residuals", "grains", "alternatives"];
const have = (kind) => data.layers.filter((layer) => layer.kind === kind).length;
const amount = {
  found: found.col.length,
  predicted: have("answer") ? data.layers.find((layer) => layer.kind === "answer").col.length : 0,
  indices: have("answer"),
  zones: data.zones.length,
  residuals: data.layers.filter((l) => l.kind !== "alternative").flatMap((l) => l.found).filter((f) => f >= 0).length,
  grains: have("grain"),
  alternatives: have("alternative"),
};
const box = {};
for (const name of NAMES) {
  box[name] = $(`show-${name}`);
  const count = box[name].parentElement.querySelector("span:not(.key)");
  if (count) count.textContent = `(${amount[name]})`;
  if (!amount[name]) {
    box[name].disabled = true;
    box[name].checked = false;
    box[name].parentElement.classList.add("off");
  }
  box[name].addEventListener("change", draw);
}
const SIGNS = { found: "○", predicted: "×", indices: "hkl", zones: "∿", residuals: "→", grains: "□", alternatives: "+" };
const STEPS = [];
for (let decade = 1; decade < 1e6; decade *= 10) STEPS.push(decade, 2 * decade, 5 * decade);
const times = $("exaggeration");
times.max = STEPS.length - 1;
times.value = STEPS.indexOf(data.exaggeration);
times.disabled = !amount.residuals;
times.addEventListener("input", draw);
$("contrast").disabled = !data.image;
$("contrast").addEventListener("input", () => { shade(); draw(); });

// ------------------------------------------------------------------------------------------------ colours
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function theme(name) {
  document.documentElement.dataset.theme = name;
  const keys = { found: "--found", predicted: "--predicted", indices: "--text", zones: "--zones", residuals: "--residuals",
    grains: "--other0", alternatives: "--other1" };
  for (const key of document.querySelectorAll(".key")) {
    key.textContent = SIGNS[key.dataset.key];
    key.style.color = `var(${keys[key.dataset.key]})`;
  }
  shade();
  draw();
}
const other = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
$("theme").addEventListener("click", other);

// ------------------------------------------------------------------------------------------------ the frame
const shaded = document.createElement("canvas");
let greys = null;
if (data.image) {
  const image = new Image();
  image.onload = () => {
    shaded.width = image.naturalWidth;
    shaded.height = image.naturalHeight;
    const brush = shaded.getContext("2d", { willReadFrequently: true });
    brush.drawImage(image, 0, 0);
    greys = brush.getImageData(0, 0, shaded.width, shaded.height);
    greys.level = new Uint8Array(greys.data.length / 4);
    for (let i = 0; i < greys.level.length; i++) greys.level[i] = greys.data[4 * i];
    shade();
    draw();
    document.documentElement.dataset.image = "drawn";
  };
  image.src = `data:image/png;base64,${data.image.png}`;
}
function shade() {
  if (!greys) return;
  const power = 2 ** -Number($("contrast").value);
  const dark = document.documentElement.dataset.theme === "dark";
  const table = Uint8Array.from({ length: 256 }, (_, v) => {
    const level = 255 * (v / 255) ** power;
    return dark ? level : 255 - level;
  });
  const out = greys.data;
  for (let i = 0, j = 0; i < greys.level.length; i++, j += 4) out[j] = out[j + 1] = out[j + 2] = table[greys.level[i]];
  shaded.getContext("2d").putImageData(greys, 0, 0);
}

// ------------------------------------------------------------------------------------------------ zoom and pan
// A pixel (col, row) of the detector stands at (col - x) * scale, (row - y) * scale of the canvas, in CSS pixels.
const at = { scale: 1, x: 0, y: 0, width: 1, height: 1 };
const toScreen = (col, row) => [(col - at.x) * at.scale, (row - at.y) * at.scale];
const smallest = () => Math.min(at.width / cols, at.height / rows);
function fit() {
  at.scale = smallest();
  at.x = (cols - at.width / at.scale) / 2 - 0.5;
  at.y = (rows - at.height / at.scale) / 2 - 0.5;
  draw();
}
function resize() {
  const whole = at.scale <= smallest() * 1.001;
  const width = $("frame").clientWidth;
  const height = Math.max(200, Math.min((width * rows) / cols, 0.82 * window.innerHeight));
  $("frame").style.height = `${height}px`;
  const dots = window.devicePixelRatio || 1;
  Object.assign(at, { width, height });
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  ink.setTransform(dots, 0, 0, dots, 0, 0);
  if (whole || !resize.done) fit(); else draw();
  resize.done = true;
}
function zoom(factor, sx = at.width / 2, sy = at.height / 2) {
  const scale = Math.min(Math.max(at.scale * factor, 0.8 * smallest()), 60);
  at.x += sx / at.scale - sx / scale;
  at.y += sy / at.scale - sy / scale;
  at.scale = scale;
  keepInSight();
}
function move(dx, dy) {
  at.x -= dx / at.scale;
  at.y -= dy / at.scale;
  keepInSight();
}
function keepInSight() {
  at.x = Math.min(Math.max(at.x, -at.width / at.scale / 2), cols - at.width / at.scale / 2);
  at.y = Math.min(Math.max(at.y, -at.height / at.scale / 2), rows - at.height / at.scale / 2);
  draw();
}

// ------------------------------------------------------------------------------------------------ drawing
let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}
const shown = (layer) => box[{ answer: "predicted", grain: "grains", alternative: "alternatives" }[layer.kind]].checked;
const inSight = (x, y, margin = 20) => x > -margin && y > -margin && x < at.width + margin && y < at.height + margin;
const PATHS = {
  cross: (x, y, r) => [[x - r, y - r, x + r, y + r], [x - r, y + r, x + r, y - r]],
  plus: (x, y, r) => [[x - r, y, x + r, y], [x, y - r, x, y + r]],
  square: (x, y, r) => [[x - r, y - r, x + r, y - r, x + r, y + r, x - r, y + r, x - r, y - r]],
  diamond: (x, y, r) => [[x - 1.3 * r, y, x, y - 1.3 * r, x + 1.3 * r, y, x, y + 1.3 * r, x - 1.3 * r, y]],
  triangle: (x, y, r) => [[x - r, y + r, x, y - 1.2 * r, x + r, y + r, x - r, y + r]],
};
function polyline(points) {
  ink.moveTo(points[0], points[1]);
  for (let i = 2; i < points.length; i += 2) ink.lineTo(points[i], points[i + 1]);
}
function words(text, x, y, style) {
  ink.strokeStyle = colour("--halo");
  ink.lineWidth = 3;
  ink.lineJoin = "round";
  ink.strokeText(text, x, y);
  ink.fillStyle = style;
  ink.fillText(text, x, y);
}
function paint() {
  ink.clearRect(0, 0, at.width, at.height);
  const [left, top] = toScreen(-0.5, -0.5);
  ink.fillStyle = colour("--ground");
  ink.fillRect(0, 0, at.width, at.height);
  if (greys) {
    ink.imageSmoothingEnabled = at.scale * data.image.pool < 3;
    const size = data.image.pool * at.scale;
    ink.drawImage(shaded, left, top, shaded.width * size, shaded.height * size);
  }
  ink.strokeStyle = colour("--line");
  ink.lineWidth = 1;
  ink.strokeRect(left, top, cols * at.scale, rows * at.scale);
  ink.setLineDash([4, 3]);
  for (const region of data.blind) {
    const [x, y] = toScreen(...region.centre);
    const [w, h] = region.size.map((s) => s * at.scale);
    ink.beginPath();
    if (region.shape === "circle") ink.ellipse(x, y, w / 2, h / 2, 0, 0, 2 * Math.PI);
    else ink.rect(x - w / 2, y - h / 2, w, h);
    ink.stroke();
  }
  ink.setLineDash([]);
  if (box.zones.checked) paintZones();
  if (box.found.checked) paintFound();
  for (const layer of data.layers) if (shown(layer)) paintLayer(layer);
  if (box.residuals.checked) paintResiduals();
  const taken = box.zones.checked ? nameZones() : [];
  if (box.indices.checked) paintIndices(taken);
  if (chosen) {
    const [x, y] = toScreen(chosen.col, chosen.row);
    ink.beginPath();
    ink.arc(x, y, 13, 0, 2 * Math.PI);
    ink.strokeStyle = colour("--ink");
    ink.lineWidth = 2.5;
    ink.stroke();
  }
  $("times").textContent = STEPS[times.value];
  document.documentElement.dataset.ready = "yes";
}
function paintZones() {
  ink.strokeStyle = colour("--zones");
  for (const zone of data.zones) {
    ink.lineWidth = chosen && onZone(chosen, zone) ? 2.6 : 1.1;
    ink.strokeStyle = colour("--zones");
    ink.beginPath();
    for (const line of zone.lines) polyline(line.flatMap(([c, r]) => toScreen(c, r)));
    ink.stroke();
  }
}
function nameZones() {
  const taken = [];
  ink.font = "600 12px system-ui, sans-serif";
  data.zones.forEach((zone, k) => {
    // Names at different places along their curves, since many of them cross in the middle.
    const visible = zone.lines.flat().map(([c, r]) => toScreen(c, r)).filter(([x, y]) => inSight(x, y, -30));
    if (!visible.length) return;
    const [x, y] = visible[Math.floor((visible.length - 1) * (0.15 + 0.7 * ((k * 0.382) % 1)))];
    words(zone.label, x, y, colour("--zones"));
    taken.push([x, y - 12, x + ink.measureText(zone.label).width, y + 3]);
  });
  return taken;
}
function paintFound() {
  for (const known of [true, false]) {
    ink.strokeStyle = colour(known ? "--found" : "--unknown");
    ink.lineWidth = known ? 1.6 : 1.1;
    ink.setLineDash(known ? [] : [2, 2]);
    ink.beginPath();
    found.col.forEach((col, i) => {
      const [x, y] = toScreen(col, found.row[i]);
      if (found.explained[i] !== known || !inSight(x, y)) return;
      ink.moveTo(x + 7, y);
      ink.arc(x, y, 7, 0, 2 * Math.PI);
    });
    ink.stroke();
  }
  ink.setLineDash([]);
}
function paintLayer(layer) {
  ink.strokeStyle = colour(layer.colour);
  ink.lineWidth = 1.4;
  ink.beginPath();
  layer.col.forEach((col, i) => {
    if (col === null) return;
    const [x, y] = toScreen(col, layer.row[i]);
    if (inSight(x, y)) PATHS[layer.shape](x, y, layer.kind === "grain" ? 6 : 4).forEach(polyline);
  });
  ink.stroke();
}
function paintResiduals() {
  const factor = STEPS[times.value];
  ink.strokeStyle = colour("--residuals");
  ink.lineWidth = 1.6;
  ink.beginPath();
  for (const layer of data.layers.filter((l) => l.kind !== "alternative")) {
    layer.found.forEach((f, i) => {
      if (f < 0 || layer.col[i] === null) return;
      const [x, y] = toScreen(layer.col[i], layer.row[i]);
      const dx = (found.col[f] - layer.col[i]) * factor * at.scale;
      const dy = (found.row[f] - layer.row[i]) * factor * at.scale;
      const length = Math.hypot(dx, dy);
      if (!inSight(x, y, length) || length < 1) return;
      const [ux, uy] = [dx / length, dy / length];
      const head = Math.min(6, 0.5 * length);
      polyline([x, y, x + dx, y + dy]);
      polyline([x + dx - head * (ux - 0.5 * uy), y + dy - head * (uy + 0.5 * ux), x + dx, y + dy,
        x + dx - head * (ux + 0.5 * uy), y + dy - head * (uy - 0.5 * ux)]);
    });
  }
  ink.stroke();
  ink.font = "12px system-ui, sans-serif";
  words(`residuals × ${factor}`, 8, at.height - 8, colour("--residuals"));
}
const sign = (hkl) => hkl.map((i) => (i < 0 ? `−${-i}` : `${i}`)).join(" ");
function paintIndices(taken) {
  const answer = data.layers.find((layer) => layer.kind === "answer");
  let room = 60;
  ink.font = "12px system-ui, sans-serif";
  for (let i = 0; i < answer.col.length && room > 0; i++) {
    if (answer.col[i] === null) continue;
    const [x, y] = toScreen(answer.col[i], answer.row[i]);
    if (!inSight(x, y, 0)) continue;
    const text = sign(answer.hkl[i]);
    const b = [x + 9, y - 14, x + 11 + ink.measureText(text).width, y + 1];
    if (taken.some((t) => b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3])) continue;
    taken.push(b);
    words(text, x + 9, y - 3, colour("--text"));
    room--;
  }
}
