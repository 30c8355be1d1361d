// Small charts of the last minutes, drawn as SVG. A chart has one or two series; the first is filled, the second a bare
// line, so that they are told apart without colour. What a chart shows is also said in words (`aria-label`).

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// The least of 1, 2, 5, 10, 20 … that is at least `value`; charts keep their scale while values tremble.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

// The largest value of any of the series; 0 where there is none.
function highest(series, samples) {
  let most = 0;
  for (const sample of samples) for (const { key } of series) most = Math.max(most, sample[key] ?? 0);
  return most;
}

// Paths of one series: the line, and the area under it. A missing value, or a time without samples, is a gap.
function trace(samples, key, x, y, floor) {
  let line = "";
  let area = "";
  let run = [];
  let previous = null;
  const finish = () => {
    if (run.length === 1) run.push([run[0][0] + 1, run[0][1]]);
    if (run.length) {
      const points = run.map(([left, top]) => `${left.toFixed(1)} ${top.toFixed(1)}`).join("L");
      line += `M${points}`;
      area += `M${run[0][0].toFixed(1)} ${floor}L${points}L${run[run.length - 1][0].toFixed(1)} ${floor}Z`;
    }
    run = [];
  };
  for (const sample of samples) {
    const value = sample[key] ?? null;
    if (value === null || (previous !== null && sample.at - previous > 15000)) finish();
    if (value !== null) run.push([x(sample.at), y(value)]);
    previous = sample.at;
  }
  finish();
  return { line, area };
}

class Chart {
  // `series` is [{key, name}], at most two. `format` is a name in `words`. `kind` is `plain` for a row's sparkline, `bare`
  // for lines only.
  constructor(title, series, format, kind = "") {
    const plain = kind === "plain";
    this.title = title;
    this.series = series;
    this.format = format;
    this.plain = plain;
    this.width = plain ? 92 : 240;
    this.height = plain ? 22 : 72;
    this.element = svg("svg", { class: plain ? "chart plain" : "chart", role: "img", height: this.height });
    // A row's sparkline is stretched to its cell; a large chart is told its width, so that its dots stay round.
    if (plain) this.element.setAttribute("preserveAspectRatio", "none");
    this.grid = svg("path", { class: "grid" });
    this.cursor = svg("path", { class: "cursor" });
    if (!plain) this.element.append(this.grid);
    this.parts = series.map((_, index) => {
      const parts = { area: svg("path", { class: `area s${index}` }), line: svg("path", { class: `line s${index}` }) };
      parts.dot = svg("circle", { class: `dot s${index}`, r: 2.5 });
      if (index === 0 && kind !== "bare") this.element.append(parts.area);
      this.element.append(parts.line);
      if (!plain) this.element.append(parts.dot);
      return parts;
    });
    if (!plain) this.element.append(this.cursor);
  }

  // `now` and `cursorAt` (or null) are on the samples' clock, in milliseconds; the chart shows the last `minutes`.
  // `ceiling` is the value at the top.
  draw(samples, now, minutes, ceiling, cursorAt = null) {
    const { width, height } = this;
    const span = minutes * 60000;
    const edge = this.plain ? 1 : 3;
    const x = (at) => width - edge - ((now - at) / span) * (width - 2 * edge);
    const y = (value) => height - 1 - (Math.min(value, ceiling) / ceiling) * (height - 2 - edge);
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const shown = samples.filter((sample) => sample.at >= now - span);
    this.series.forEach(({ key }, index) => {
      const { line, area } = trace(shown, key, x, y, height - 1);
      const parts = this.parts[index];
      parts.line.setAttribute("d", line);
      parts.area.setAttribute("d", area);
      const marked = cursorAt === null ? shown[shown.length - 1] : nearest(shown, cursorAt);
      const value = marked?.[key] ?? null;
      parts.dot.setAttribute("visibility", value === null ? "hidden" : "visible");
      if (value !== null) {
        parts.dot.setAttribute("cx", x(marked.at).toFixed(1));
        parts.dot.setAttribute("cy", y(value).toFixed(1));
      }
    });
    this.grid.setAttribute("d", `M0 ${y(ceiling)}H${width}M0 ${y(ceiling / 2)}H${width}M0 ${height - 0.5}H${width}`);
    this.cursor.setAttribute("d", cursorAt === null ? "" : `M${x(cursorAt).toFixed(1)} 0V${height}`);
    this.element.setAttribute("aria-label", this.inWords(shown, minutes));
  }

  inWords(samples, minutes) {
    const last = samples[samples.length - 1] ?? {};
    const parts = this.series.map(({ key, name }) => {
      const most = highest([{ key }], samples);
      return `${name} now ${inWords(this.format, last[key])}, at most ${inWords(this.format, most)}`;
    });
    return `${this.title}, last ${minutes === 1 ? "minute" : `${minutes} minutes`}: ${parts.join("; ")}`;
  }
}

function nearest(samples, at) {
  let best = null;
  for (const sample of samples) if (!best || Math.abs(sample.at - at) < Math.abs(best.at - at)) best = sample;
  return best;
}
