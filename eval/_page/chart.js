// SPDX-License-Identifier: Apache-2.0
// Charts as inline SVG, drawn for the width that they have.

/**
 * Charts that share their series: a legend entry or the scale of one is that of all.
 *
 * @param {HTMLElement} place where they go
 * @param {{xTitle: string, xName: string, formatX: (x: number) => string, lines: boolean,
 *   charts: {title: string, unit: string, higherIsBetter: boolean | null,
 *     series: {name: string, points: {x: number, y: number, facts: [string, string][]}[]}[]}[]}} spec
 */
function showCharts(place, spec) {
  const shared = { log: false, hidden: new Set() };
  const redraws = [];
  const redrawAll = () => redraws.forEach((redraw) => redraw());
  const toggle = element("input", {
    type: "checkbox",
    role: "switch",
    class: "log-toggle",
    on: {
      change: () => {
        shared.log = toggle.checked;
        redrawAll();
      },
    },
  });
  const label = element("label", { class: "switch" }, toggle, `Logarithmic ${spec.xName}`);
  const grid = element("div", { class: "chart-grid" });
  place.append(element("div", { class: "toolbar" }, label), grid);
  for (const chart of spec.charts) {
    const figure = element("figure", { class: "chart" });
    grid.append(figure);
    redraws.push(showChart(figure, chart, spec, shared, redrawAll));
  }
}

/** One chart; returns the function that draws it anew. */
function showChart(figure, chart, spec, shared, redrawAll) {
  // The direction of a user's own function is not known.
  const better = { true: "↑ better: up", false: "↓ better: down" }[chart.higherIsBetter] ?? "";
  const yTitle = chart.unit ? `${chart.title}, ${chart.unit}` : chart.title;
  const caption = element(
    "figcaption",
    {},
    element("strong", {}, yTitle),
    element("span", { class: "better" }, better),
  );
  const tooltip = element("div", { class: "tooltip", role: "status", hidden: "" });
  const plot = element("div", {
    class: "plot",
    tabindex: "0",
    role: "group",
    "aria-label": `Chart of ${yTitle} over ${spec.xTitle}; arrow keys step through its points`,
  });
  const legend = showLegend(chart, spec, shared, redrawAll);
  figure.append(caption, plot, legend.node);

  let drawn = [];
  let chosen = null;
  let width = 0;

  const choose = (point) => {
    if (point === chosen) return;
    chosen?.node.classList.remove("chosen");
    chosen = point;
    tooltip.hidden = point === null;
    if (point === null) return;
    point.node.classList.add("chosen");
    point.node.parentNode.append(point.node); // above the others
    fillTooltip(tooltip, point, spec, yTitle, chart);
    placeTooltip(tooltip, point, width);
  };

  const redraw = () => {
    width = plot.clientWidth;
    if (width === 0) return;
    const before = chosen;
    choose(null);
    const result = drawPlot(chart, spec, shared, width, yTitle);
    drawn = result.points;
    plot.replaceChildren(result.svg, tooltip);
    const again = ({ series, x, y }) => series === before?.series && x === before.x && y === before.y;
    choose(drawn.find(again) ?? null);
    legend.update();
  };

  plot.addEventListener("pointermove", (event) => choose(nearest(drawn, plot, event)));
  plot.addEventListener("pointerdown", (event) => choose(nearest(drawn, plot, event)));
  plot.addEventListener("pointerleave", (event) => {
    // A finger that lifts also leaves; what it tapped stays to be read.
    if (event.pointerType === "mouse") choose(null);
  });
  plot.addEventListener("blur", () => choose(null));
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose(null);
    const next = neighbour(drawn, chosen, event.key);
    if (next === null) return;
    event.preventDefault();
    choose(next);
  });

  new ResizeObserver(() => {
    // Drawing in the callback itself would make the browser report a loop.
    if (plot.clientWidth !== width) requestAnimationFrame(redraw);
  }).observe(plot);
  redraw();
  return redraw;
}

function showLegend(chart, spec, shared, redrawAll) {
  // Values that are not finite have marks too, at an edge of the plot.
  const entries = chart.series
    .map(({ name, points }, index) => ({ name, index, points }))
    .filter(({ points }) => points.some(hasPlace));
  const buttons = entries.map(({ name, index }) => {
    const look = seriesLook(index);
    const sample = svgElement(
      "svg",
      { width: "26", height: "14", viewBox: "-13 -7 26 14", "aria-hidden": "true" },
      ...(spec.lines ? [drawLine(look, "M-13,0H13")] : []),
      drawMarker(look, 0, 0),
    );
    const flip = () => {
      if (!shared.hidden.delete(name)) shared.hidden.add(name);
      redrawAll();
    };
    return element("button", { type: "button", on: { click: flip } }, sample, verbatim(name));
  });
  const update = () => {
    buttons.forEach((button, position) => {
      button.setAttribute("aria-pressed", String(!shared.hidden.has(entries[position].name)));
    });
  };
  const node = element("div", { class: "legend", role: "group", "aria-label": "Shown series" }, ...buttons);
  return { node, update };
}

/** Whether a point is drawn: it is if it was measured, even if the result is not finite. */
function hasPlace({ x, y }) {
  return isNumber(x) && y !== undefined;
}

function drawLine(look, path) {
  return svgElement("path", {
    d: path,
    class: "line",
    style: `stroke: ${look.colour}`,
    "stroke-dasharray": look.dashes,
  });
}

/** The SVG and its points with their places in it. */
function drawPlot(chart, spec, shared, width, yTitle) {
  const height = Math.round(Math.min(360, Math.max(220, width * 0.62)));
  const visible = chart.series.map((series, index) => ({
    name: series.name,
    look: seriesLook(index),
    points: shared.hidden.has(series.name)
      ? []
      : series.points.filter((point) => hasPlace(point) && (!shared.log || point.x > 0)),
  }));
  const all = visible.flatMap(({ points }) => points);
  const svg = svgElement("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width: String(width),
    height: String(height),
    role: "img",
    "aria-label": `${yTitle} over ${spec.xTitle}${shared.log ? ", logarithmic" : ""}`,
    "data-x-scale": shared.log ? "log" : "linear",
  });
  if (all.length === 0) {
    const middle = { x: String(width / 2), y: String(height / 2), "text-anchor": "middle" };
    svg.append(svgElement("text", middle, "No values to show"));
    return { svg, points: [] };
  }
  const bottom = height - 44;
  const { edges, inner } = edgesFor(all.map(({ y }) => y), [bottom, 10]);
  const finite = all.map(({ y }) => y).filter(isNumber);
  const yScale =
    finite.length > 0 ? makeScale(finite, inner, { ticks: Math.max(4, height / 36) }) : { at: () => 0, ticks: [] };
  const labels = [...yScale.ticks, ...edges].map(({ text }) => text.length);
  // Room for the longest number beside the axis; digits are about 7.2 units wide.
  const left = 14 + 7.2 * Math.max(...labels);
  const xScale = makeScale(all.map(({ x }) => x), [left, width - 12], {
    log: shared.log,
    fromZero: true,
    ticks: Math.max(3, width / 75),
  });
  svg.append(drawAxes(xScale, yScale, edges, { left, bottom, width, height }, spec, shared.log));
  const points = [];
  const markers = svgElement("g");
  visible.forEach((series, seriesIndex) => {
    const placed = series.points.map((point) => ({
      ...point,
      series: series.name,
      seriesIndex,
      look: series.look,
      left: xScale.at(point.x),
      top: isNumber(point.y) ? yScale.at(point.y) : edges.find(({ holds }) => holds(point.y)).top,
    }));
    placed.sort((a, b) => a.left - b.left);
    const joined = placed.filter(({ y }) => isNumber(y));
    if (spec.lines && joined.length > 1) {
      const path = joined.map(({ left: x, top: y }) => `${x.toFixed(2)},${y.toFixed(2)}`).join("L");
      svg.append(drawLine(series.look, `M${path}`));
    }
    for (const point of placed) {
      point.node = drawMarker(series.look, point.left, point.top, spec.lines ? 1 : 1.4);
      if (!isNumber(point.y)) point.node.classList.add("off-scale");
      markers.append(point.node);
      points.push(point);
    }
  });
  svg.append(markers);
  return { svg, points };
}

/** Places beyond the scale for what is not finite, and the room that they leave to the rest. */
function edgesFor(values, [bottom, top]) {
  const missing = { text: "none", holds: (value) => !isMeasured(value) };
  const kinds = {
    above: [{ text: "∞", holds: (value) => value === Infinity }],
    below: [{ text: "−∞", holds: (value) => value === -Infinity }, missing],
  };
  const used = (edge) => values.some(edge.holds);
  const above = kinds.above.filter(used).map((edge) => ({ ...edge, top: top + 2 }));
  const below = kinds.below.filter(used).map((edge, index) => ({ ...edge, top: bottom - 12 - 20 * index }));
  const inner = [bottom - (below.length > 0 ? 10 + 20 * below.length : 0), top + 20 * above.length];
  return { edges: [...above, ...below], inner };
}

function drawAxes(xScale, yScale, edges, { left, bottom, width, height }, spec, log) {
  const group = svgElement("g", { class: "axes" });
  for (const { value, text } of yScale.ticks) {
    const y = yScale.at(value).toFixed(1);
    group.append(
      svgElement("line", { x1: left, x2: width - 12, y1: y, y2: y, class: "gridline" }),
      svgElement("text", { x: left - 8, y, dy: "0.35em", "text-anchor": "end" }, text),
    );
  }
  for (const { text, top } of edges) {
    group.append(
      svgElement("line", { x1: left, x2: width - 12, y1: top, y2: top, class: "edge" }),
      svgElement("text", { x: left - 8, y: top, dy: "0.35em", "text-anchor": "end" }, text),
    );
  }
  for (const { value, text } of xScale.ticks) {
    const x = xScale.at(value).toFixed(1);
    group.append(
      svgElement("line", { x1: x, x2: x, y1: bottom, y2: bottom + 5, class: "tick" }),
      svgElement("text", { x, y: bottom + 19, "text-anchor": "middle" }, text),
    );
  }
  const title = log ? `${spec.xTitle}, logarithmic` : spec.xTitle;
  const middle = (left + width - 12) / 2;
  group.append(
    svgElement("line", { x1: left, x2: width - 12, y1: bottom, y2: bottom, class: "axis" }),
    svgElement("text", { x: middle, y: height - 6, "text-anchor": "middle", class: "axis-title" }, title),
  );
  return group;
}

/** The point that a pointer means, or null if none is near. */
function nearest(points, plot, event) {
  const box = plot.getBoundingClientRect();
  const reach = event.pointerType === "mouse" ? 28 : 44;
  let best = null;
  let bestDistance = reach;
  for (const point of points) {
    const distance = Math.hypot(box.left + point.left - event.clientX, box.top + point.top - event.clientY);
    if (distance < bestDistance) [best, bestDistance] = [point, distance];
  }
  return best;
}

/** The point that an arrow key leads to: left and right along a series, up and down between them. */
function neighbour(points, chosen, key) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!(key in steps) || points.length === 0) return null;
  if (chosen === null) return points[0];
  const [acrossSeries, along] = steps[key];
  if (along !== 0) {
    const own = points.filter(({ seriesIndex }) => seriesIndex === chosen.seriesIndex);
    return own[own.indexOf(chosen) + along] ?? chosen;
  }
  const present = [...new Set(points.map(({ seriesIndex }) => seriesIndex))];
  const target = present[present.indexOf(chosen.seriesIndex) + acrossSeries];
  const others = points.filter(({ seriesIndex }) => seriesIndex === target);
  const closer = (a, b) => (Math.abs(b.left - chosen.left) < Math.abs(a.left - chosen.left) ? b : a);
  return others.length > 0 ? others.reduce(closer) : chosen;
}

function fillTooltip(tooltip, point, spec, yTitle, chart) {
  const facts = [
    [spec.xTitle, spec.formatX(point.x)],
    [chart.title, formatMetric(point.y, chart)],
    ...point.facts,
  ];
  const swatch = svgElement(
    "svg",
    { width: "14", height: "14", viewBox: "-7 -7 14 14", "aria-hidden": "true" },
    drawMarker(point.look, 0, 0),
  );
  tooltip.replaceChildren(
    element("p", {}, swatch, element("strong", {}, verbatim(point.series))),
    element(
      "dl",
      {},
      ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
  );
}

/** Beside the point, inside the chart. */
function placeTooltip(tooltip, point, width) {
  const gap = 14;
  const { offsetWidth, offsetHeight } = tooltip;
  const right = point.left + gap;
  const left = point.left - gap - offsetWidth;
  const fits = right + offsetWidth <= width ? right : left >= 0 ? left : null;
  const x = fits ?? Math.max(0, Math.min(width - offsetWidth, point.left - offsetWidth / 2));
  // Without room on either side it goes above or below, where a finger does not hide the point.
  let y = point.top - offsetHeight / 2;
  if (fits === null) y = point.top > offsetHeight + gap ? point.top - offsetHeight - gap : point.top + gap;
  tooltip.style.left = `${x}px`;
  tooltip.style.top = `${Math.max(0, y)}px`;
}
