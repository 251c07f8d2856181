"use strict";
// Draws the page from the JSON in it. Text from the data only ever becomes textContent or ink on the canvas.
(() => {
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
})();
