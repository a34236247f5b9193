// SPDX-License-Identifier: Apache-2.0
// Puts charts and viewers where the page has places for them.

/** What the charts of a rate-distortion run show. */
function rateCharts(run) {
  const charts = Object.entries(run.metrics).map(([key, metric]) => ({
    title: metric.title,
    unit: metric.unit,
    higherIsBetter: metric.higher_is_better,
    series: run.codecs.map(({ codec, points }) => ({
      name: codec,
      points: points.map((point) => ({
        x: point.bits_per_pixel,
        y: point.metrics[key],
        facts: [
          ["Setting", point.setting],
          ...optionalFact("Infinite, not in the mean", point.num_infinite[key], (count) => `${count} images`),
          ...optionalFact("Bytes in all", point.num_bytes, (bytes) => groupThousands(bytes.toFixed(0))),
          ...optionalFact("Encoding", point.encode_seconds, formatDuration),
          ...optionalFact("Decoding", point.decode_seconds, formatDuration),
        ],
      })),
    })),
  }));
  return { xTitle: "bits per pixel", xName: "rate", formatX: formatNumber, lines: true, charts };
}

/** What the charts of a speed run show: each side is a series of one point. */
function speedCharts(run) {
  const charts = Object.entries(run.metrics)
    .filter(([key]) => run.sides.some(({ quality }) => isNumber(quality[key])))
    .map(([key, metric]) => ({
      title: metric.title,
      unit: metric.unit,
      higherIsBetter: metric.higher_is_better,
      series: run.sides.map((side) => ({
        name: side.name,
        points: [
          {
            x: side.median_seconds,
            y: side.quality[key],
            facts: optionalFact("Speed-up", side.speedup, formatRatio),
          },
        ],
      })),
    }));
  return { xTitle: "seconds", xName: "time", formatX: formatDuration, lines: false, charts };
}

/** A button on each card that shows its pair in the viewer. */
function offerViewer(choose, run, files) {
  for (const card of document.querySelectorAll(".cards > li")) {
    const find = ({ versions }) => versions.findIndex(({ file }) => files[file].element === card.dataset.picture);
    const picture = run.pictures.findIndex((one) => find(one) >= 0);
    const open = () => {
      choose(picture, 0, 1 + find(run.pictures[picture]));
      document.getElementById("pair-viewer").scrollIntoView({ block: "start" });
    };
    const button = element("button", { type: "button", on: { click: open } }, "Compare with a slider");
    card.querySelector("dl").after(button);
  }
}

function formatRatio(ratio) {
  return `${ratio.toFixed(2)}×`;
}

function optionalFact(name, value, format) {
  return isNumber(value) ? [[name, format(value)]] : [];
}

// JSON has no infinity.
const data = JSON.parse(document.getElementById("data").textContent, (_, value) =>
  value !== null && typeof value === "object" && "infinite" in value ? value.infinite * Infinity : value,
);
for (const picture of data.pictures) {
  // What the page shows by itself is not there twice.
  if (picture.element) picture.src = document.getElementById(picture.element).src;
}
for (const place of document.querySelectorAll("[data-charts]")) {
  const run = data.runs[Number(place.dataset.charts)];
  showCharts(place, run.kind === "speed" ? speedCharts(run) : rateCharts(run));
}
for (const place of document.querySelectorAll("[data-viewer]")) {
  const run = data.runs[Number(place.dataset.viewer)];
  const choose = showViewer(place, run, data.pictures);
  if (run.kind === "pairs") offerViewer(choose, run, data.pictures);
}
for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
for (const cards of document.querySelectorAll(".cards")) showSorting(cards);
