(async () => {
  const A = ABOUT, root = document.getElementById("PLACE"), V = {};
  const make = (tag, inside, more = {}) => inside.appendChild(Object.assign(document.createElement(tag), more));
  for (const [name, text] of Object.entries(A.volumes)) {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    V[name] = new Uint8Array(await new Response(plain).arrayBuffer());
  }
  const n = d => A.axes[d][2], mm = (d, i) => A.axes[d][0] + i * A.axes[d][1];
  const flat = p => (p.z * n("y") + p.y) * n("x") + p.x;
  const at = { ...A.start };
  const bar = make("div", root, { className: "browse-bar" });
  const choose = (text, options, none) => {
    const box = make("label", bar, { textContent: text + " " }), select = make("select", box);
    if (none) make("option", select, { value: "", textContent: none });
    for (const [value, shown] of options) make("option", select, { value, textContent: shown });
    select.oninput = draw;
    return select;
  };
  const tick = text => {
    const box = make("label", bar), input = make("input", box, { type: "checkbox", checked: true, oninput: draw });
    box.append(" " + text);
    return input;
  };
  const cases = A.cases.map(c => [c, c]);
  const which = choose("Case", cases);
  const less = A.cases.length > 1 ? choose("less", cases, "nothing") : { value: "" };
  const what = choose("Quantity", Object.entries(A.quantities));
  const lines = tick("isodoses"), shapes = tick("structures");
  const value = (c, q, i) => V[c + "|" + q] ? V[c + "|" + q][i] / 255 * A.scales[c + "|" + q] : NaN;
  const shown = i => {
    const one = value(which.value, what.value, i), other = less.value ? value(less.value, what.value, i) : 0;
    return less.value && what.value === "let_d" && !(one && other) ? 0 : one - other;  // an LETd where there is no dose is none
  };
  const reach = {};  // the largest difference in the whole volume, so that the colours of all slices are the same
  const largest = () => {
    const key = [which.value, less.value, what.value].join("|"), of = V[which.value + "|" + what.value] || [];
    return reach[key] ??= of.reduce((most, _, i) => Math.max(most, Math.abs(shown(i)) || 0), 0) || 1;
  };
  const planes = [["transverse", "z", "x", "y"], ["coronal", "y", "x", "z"], ["sagittal", "x", "y", "z"]].map(([name, normal, across, down]) => {
    const box = make("div", make("div", root, { className: "browse-plane" }));
    const canvas = make("canvas", box, { title: name });
    const words = make("label", box), slider = make("input", words, { type: "range", min: 0, max: n(normal) - 1, value: at[normal] });
    slider.setAttribute("aria-label", name + " slice");
    slider.oninput = () => { at[normal] = +slider.value; draw(); };
    const text = make("span", words), up = down === "z";
    const scale = Math.max(1, Math.round(330 / (n(across) * Math.abs(A.axes[across][1]))  * 10) / 10);
    canvas.width = Math.round(n(across) * Math.abs(A.axes[across][1]) * scale);
    canvas.height = Math.round(n(down) * Math.abs(A.axes[down][1]) * scale);
    const row = r => up ? n(down) - 1 - r : r;
    canvas.onclick = e => {
      at[across] = Math.min(n(across) - 1, Math.floor(e.offsetX / canvas.clientWidth * n(across)));
      at[down] = row(Math.min(n(down) - 1, Math.floor(e.offsetY / canvas.clientHeight * n(down))));
      draw();
    };
    return { name, normal, across, down, canvas, slider, text, row, box };
  });
  const legend = make("canvas", root, { width: 520, height: 34, className: "browse-legend" });
  const readout = make("p", root, { className: "browse-readout" });
  readout.setAttribute("aria-live", "polite");
  const rgb = hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));
  function draw() {
    const q = what.value, diff = less.value !== "";
    const colours = A.palettes[diff ? "less" : q].map(rgb);
    const each = A.cases.map(c => A.scales[c + "|" + q] || 0);
    const top = diff ? largest() : q === "let_d" ? A.scales[which.value + "|" + q] || 1 : Math.max(...each);
    for (const p of planes) {
      const w = n(p.across), h = n(p.down), image = new ImageData(w, h), index = new Int32Array(w * h);
      for (let r = 0; r < h; r++) for (let c = 0; c < w; c++) {
        const i = index[r * w + c] = flat({ [p.normal]: at[p.normal], [p.across]: c, [p.down]: p.row(r) }), k = 4 * (r * w + c);
        const grey = V.ct ? V.ct[i] : 0, v = shown(i), strong = Math.abs(v) >= 0.02 * top ? 0.72 : 0;
        const colour = colours[Math.max(0, Math.min(255, Math.round((diff ? (v / top + 1) / 2 : v / top) * 255) || 0))];
        for (let j = 0; j < 3; j++) image.data[k + j] = grey * (1 - strong) + colour[j] * strong;
        image.data[k + 3] = 255;
      }
      const small = new OffscreenCanvas(w, h), g = p.canvas.getContext("2d"), sx = p.canvas.width / w, sy = p.canvas.height / h;
      small.getContext("2d").putImageData(image, 0, 0);
      g.imageSmoothingEnabled = false;
      g.drawImage(small, 0, 0, p.canvas.width, p.canvas.height);
      // faces between voxels, chained with the inside on one side, so that a dash runs on from face to face
      const border = (inside, colour, width, dash, rim) => {
        const to = new Map(), link = (r, c, down, right) => to.set(r * w + c + r, [...to.get(r * w + c + r) || [], (r + down) * (w + 1) + c + right]);
        for (let r = 0; r < h; r++) for (let c = 0; c < w; c++) {
          const here = inside(index[r * w + c]);
          if (c + 1 < w && here !== inside(index[r * w + c + 1])) here ? link(r, c + 1, 1, 0) : link(r + 1, c + 1, -1, 0);
          if (r + 1 < h && here !== inside(index[(r + 1) * w + c])) here ? link(r + 1, c + 1, 0, -1) : link(r + 1, c, 0, 1);
        }
        const path = new Path2D(), place = v => [v % (w + 1) * sx, Math.floor(v / (w + 1)) * sy];
        for (const start of to.keys()) {
          if (to.get(start).length) path.moveTo(...place(start));
          for (let v = start; (v = to.get(v)?.pop()) !== undefined;) path.lineTo(...place(v));
        }
        if (rim) { g.lineWidth = width + 1.4; g.strokeStyle = "rgba(0, 0, 0, 0.45)"; g.stroke(path); }
        g.setLineDash(dash); g.lineWidth = width; g.strokeStyle = colour; g.stroke(path); g.setLineDash([]);
      };
      if (shapes.checked) A.contours.forEach(([colour, dash], b) => border(i => V.structures[i] >> b & 1, colour, b ? 1.6 : 2.2, dash, true));
      const dosed = A.quantities.rbe_dose ? "rbe_dose" : "dose";
      if (lines.checked && A.quantities[dosed]) for (const level of A.isodoses) border(i => value(which.value, dosed, i) >= level, "#fff", 0.9, [3, 2]);
      g.strokeStyle = "#00e0ff"; g.lineWidth = 1; g.beginPath();
      const x = (at[p.across] + 0.5) * sx, y = (p.row(at[p.down]) + 0.5) * sy;
      g.moveTo(x, 0); g.lineTo(x, p.canvas.height); g.moveTo(0, y); g.lineTo(p.canvas.width, y); g.stroke();
      g.fillStyle = "#fff"; g.font = "bold 13px sans-serif";
      g.fillText(A.sides[p.across][0], 4, p.canvas.height / 2); g.fillText(A.sides[p.across][1], p.canvas.width - 14, p.canvas.height / 2);
      const [low, high] = A.sides[p.down];
      g.fillText(p.down === "z" ? high : low, p.canvas.width / 2, 14); g.fillText(p.down === "z" ? low : high, p.canvas.width / 2, p.canvas.height - 5);
      p.slider.value = at[p.normal];
      p.text.textContent = ` ${p.name}, ${p.normal} = ${mm(p.normal, at[p.normal]).toFixed(1)} mm`;
    }
    const l = legend.getContext("2d");
    l.clearRect(0, 0, 520, 34);
    colours.forEach((c, i) => { l.fillStyle = `rgb(${c})`; l.fillRect(10 + i * 360 / 256, 2, 2, 12); });
    l.fillStyle = "#1d2327"; l.font = "12px sans-serif";
    const ends = diff ? [-top, 0, top] : [0, top / 2, top];
    ends.forEach((v, i) => l.fillText(v.toFixed(2), i * 175 + (i ? 0 : 6), 30));
    l.fillText(A.units[q], 385, 13);
    const i = flat(at), inside = A.structures.filter((_, b) => V.structures[i] >> b & 1).join(", ") || "no structure";
    const hu = V.ct ? `CT ${Math.round(A.grey[0] + V.ct[i] / 255 * (A.grey[1] - A.grey[0]))} HU${[0, 255].includes(V.ct[i]) ? " or beyond" : ""}. ` : "";
    const rows = Object.entries(A.quantities).map(([k, text]) => `${text}: ` + A.cases.map(c => `${c} ${value(c, k, i).toPrecision(3)}`).join(", "));
    readout.textContent = `x ${mm("x", at.x).toFixed(1)}, y ${mm("y", at.y).toFixed(1)}, z ${mm("z", at.z).toFixed(1)} mm: ${inside}. ${hu}${rows.join(". ")}.`;
  }
  draw();
  root.dataset.ready = "yes";
})();
