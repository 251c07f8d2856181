// Single spots, pointer and keys, stereogram and tables: the second half of the page's function.
// ------------------------------------------------------------------------------------------------ single spots
let chosen = null;
const onZone = (spot, zone) => spot.hkl && spot.hkl.reduce((sum, h, i) => sum + h * zone.uvw[i], 0) === 0;
function foundSpot(f) {
  const spot = { col: found.col[f], row: found.row[f], lines: [] };
  spot.lines.push(`found at (${spot.col.toFixed(2)}, ${spot.row.toFixed(2)}), counts ${Math.round(found.counts[f])}`);
  const entries = explaining[f].filter(({ layer }) => layer.kind !== "alternative" || shown(layer));
  for (const { layer, entry } of entries) {
    const off = Math.hypot(found.col[f] - layer.col[entry], found.row[f] - layer.row[entry]);
    spot.lines.push(`${reflection(layer, entry)}, residual ${off.toFixed(3)} px`);
    if (layer.kind === "answer") spot.hkl = layer.hkl[entry];
  }
  if (!entries.length) spot.lines.push("not explained");
  return spot;
}
function predictedSpot(layer, entry) {
  return { col: layer.col[entry], row: layer.row[entry], hkl: layer.kind === "answer" ? layer.hkl[entry] : null,
    lines: [`${reflection(layer, entry)}: predicted at (${layer.col[entry].toFixed(2)}, ${layer.row[entry].toFixed(2)}), not found`] };
}
function reflection(layer, entry) {
  const kev = layer.energy_kev[entry];
  const wave = `${(data.hc_kev_a / kev).toFixed(4)} Å`;
  const energy = data.radiation === "neutron" ? wave : `${kev.toFixed(3)} keV, ${wave}`;
  return `${have("grain") + have("alternative") ? `${layer.name}: ` : ""}hkl ${sign(layer.hkl[entry])} at ${energy}`;
}
function nearest(sx, sy) {
  let best = null;
  const offer = (col, row, build) => {
    const [x, y] = toScreen(col, row);
    const distance = Math.hypot(x - sx, y - sy);
    if (distance < 14 && (!best || distance < best.distance)) best = { distance, build };
  };
  const any = box.found.checked || box.predicted.checked;
  if (any) found.col.forEach((col, f) => offer(col, found.row[f], () => foundSpot(f)));
  for (const layer of data.layers) {
    if (shown(layer)) {
      layer.col.forEach((col, i) => col !== null && layer.found[i] < 0 && offer(col, layer.row[i], () => predictedSpot(layer, i)));
    }
  }
  return best && best.build();
}
function choose(spot) {
  const before = chosen;
  chosen = spot;
  const tip = $("tip");
  tip.hidden = !spot;
  if (spot) {
    const zones = data.zones.filter((zone) => onZone(spot, zone)).map((zone) => zone.label);
    tip.textContent = spot.lines.concat(zones.length ? [`zones ${zones.join(" ")}`] : []).join("\n");
    const [x, y] = toScreen(spot.col, spot.row);
    tip.style.left = `${Math.max(0, Math.min(x + 16, at.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > at.height ? Math.max(0, y - 18 - tip.offsetHeight) : y + 18}px`;
  }
  if (before || spot) draw();
}
let current = -1;
function go(step) {
  const n = found.col.length;
  if (!n) return;
  current = current < 0 ? (step > 0 ? 0 : n - 1) : (current + step + n) % n;
  pick(current);
}
function pick(f) {
  current = f;
  const [x, y] = toScreen(found.col[f], found.row[f]);
  if (!inSight(x, y, -20)) move(at.width / 2 - x, at.height / 2 - y);
  choose(foundSpot(f));
  $("where").textContent = chosen.lines.join("; ");
  for (const row of $("rows").children) row.classList.toggle("chosen", Number(row.dataset.found) === f);
}

// ------------------------------------------------------------------------------------------------ hands
const pointers = new Map();
const place = (event) => {
  const edge = canvas.getBoundingClientRect();
  return [event.clientX - edge.left, event.clientY - edge.top];
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
});
canvas.addEventListener("pointermove", (event) => {
  const here = place(event);
  const before = pointers.get(event.pointerId);
  if (before && pointers.size === 1) {
    choose(null);
    move(here[0] - before[0], here[1] - before[1]);
  } else if (before && pointers.size === 2) {
    const fixed = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const [was, is] = [before, here].map((p) => Math.hypot(p[0] - fixed[0], p[1] - fixed[1]));
    if (was > 5) zoom(is / was, ...fixed);
  } else {
    const [col, row] = [here[0] / at.scale + at.x, here[1] / at.scale + at.y];
    $("where").textContent = `column ${col.toFixed(1)}, row ${row.toFixed(1)}`;
    choose(nearest(...here));
  }
  if (before) pointers.set(event.pointerId, here);
});
const release = (event) => pointers.delete(event.pointerId);
canvas.addEventListener("pointerup", (event) => {
  release(event);
  choose(nearest(...place(event))); // a tap asks for a spot where nothing can hover
});
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => choose(null));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-0.0015 * event.deltaY * (event.deltaMode ? 30 : 1)), ...place(event));
}, { passive: false });
$("in").addEventListener("click", () => zoom(1.5));
$("out").addEventListener("click", () => zoom(1 / 1.5));
$("fit").addEventListener("click", fit);
const toggle = (name) => () => { if (!box[name].disabled) { box[name].checked = !box[name].checked; draw(); } };
const ANYWHERE = { f: toggle("found"), p: toggle("predicted"), z: toggle("zones"), r: toggle("residuals"), i: toggle("indices"),
  g: toggle("grains"), a: toggle("alternatives"), t: other, n: () => go(1), N: () => go(-1), Escape: () => choose(null),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit };
const ON_CANVAS = { ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60) };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
  const act = ANYWHERE[event.key] || (event.target === canvas && ON_CANVAS[event.key]);
  if (act) { act(); event.preventDefault(); }
});

// ------------------------------------------------------------------------------------------------ the side
function paintStereogram() {
  const svg = $("stereogram");
  const s = data.stereogram;
  const line = (points) => points.map(([x, y]) => `${x},${-y}`).join(" ");
  if (s.reached) {
    for (const [y, x0, x1] of s.reached.runs) {
      make("rect", svg, null, { x: x0, y: -y - s.reached.cell, width: x1 - x0, height: 1.02 * s.reached.cell, fill: "var(--reach)", opacity: 0.18 });
    }
  }
  for (const net of s.net) make("polyline", svg, null, { points: line(net), fill: "none", stroke: "var(--line)", "stroke-width": 0.005 });
  make("circle", svg, null, { r: 1, fill: "none", stroke: "var(--dim)", "stroke-width": 0.01 });
  for (const [x, y] of s.normals) make("circle", svg, null, { cx: x, cy: -y, r: 0.009, fill: "var(--unknown)", opacity: 0.7 });
  const regular = (x, y, n, r, turn) => Array.from({ length: n }, (_, k) => {
    const a = turn + (2 * Math.PI * k) / n;
    return `${x + r * Math.sin(a)},${y - r * Math.cos(a)}`;
  }).join(" ");
  let others = 0;
  s.modes.forEach((mode) => {
    const main = mode.kind === "answer";
    const hue = main ? "var(--found)" : `var(--other${others++ % 4})`;
    const group = make("g", svg, null, { fill: main ? hue : "none", stroke: hue, "stroke-width": 0.012, "data-kind": mode.kind });
    for (const outline of mode.ellipses) make("polyline", group, null, { points: line(outline), fill: "none" });
    mode.points.forEach(([x, yUp], k) => {
      const y = -yUp;
      const { label, order } = s.axes[k];
      let mark;
      if (order === 2) mark = make("ellipse", group, null, { cx: x, cy: y, rx: 0.014, ry: 0.036 });
      else if (order > 2) mark = make("polygon", group, null, { points: regular(x, y, order, order === 3 ? 0.04 : 0.036, order === 4 ? Math.PI / 4 : 0) });
      else mark = make("circle", group, null, { cx: x, cy: y, r: 0.02 });
      make("title", mark, `${mode.name}: ${label}${order > 1 ? `, ${order}-fold axis` : ""}`);
      if (main) make("text", svg, label, { x: x + 0.05, y: y - 0.03, "font-size": 0.062, fill: "currentColor" });
    });
    const item = make("li", $("modes"));
    make("span", item, main ? "● " : "○ ").style.color = hue;
    make("span", item, mode.share === null ? mode.name : `${mode.name}: ${mode.share}`);
  });
  const ellipses = s.modes.some((mode) => mode.ellipses.length);
  $("caption").textContent = s.modes.length
    ? "Axes of the crystal as seen along the beam: centre against the beam, x to the right, y up."
      + (ellipses ? ` Ellipses: 95 % regions${s.magnification > 1 ? `, ${s.magnification} times as large` : ""}.` : "")
      + (s.normals.length ? " Dots: normals of the explained planes." : "")
      + (s.reached ? " Shaded: what the goniometer can bring along the beam." : "")
    : "No orientation stands out.";
}
function list() {
  const neutron = data.radiation === "neutron";
  for (const head of ["h k l", "column", "row", "counts", neutron ? "wavelength Å" : "energy keV", "residual px"]) make("th", $("heads"), head);
  found.col.forEach((col, f) => {
    const first = explaining[f].find(({ layer }) => layer.kind !== "alternative");
    if (!first) return;
    const { layer, entry } = first;
    const kev = layer.energy_kev[entry];
    const row = make("tr", $("rows"), null, { "data-found": f });
    const off = Math.hypot(col - layer.col[entry], found.row[f] - layer.row[entry]);
    for (const text of [sign(layer.hkl[entry]), col.toFixed(2), found.row[f].toFixed(2), Math.round(found.counts[f]),
      neutron ? (data.hc_kev_a / kev).toFixed(4) : kev.toFixed(3), off.toFixed(3)]) make("td", row, text);
    row.addEventListener("click", () => pick(f));
  });
}
for (const [name, value] of data.facts) {
  const row = make("tr", $("facts"));
  make("th", row, name, { scope: "row" });
  make("td", row, value);
}
$("note").textContent = data.note;
$("list").open = rows < 0.7 * cols; // a flat pattern leaves room for it
paintStereogram();
list();
window.addEventListener("resize", resize);
resize();
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
