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

function formatRatio(ratio) {
  return `${ratio.toFixed(2)}×`;
}

function optionalFact(name, value, format) {
  return isNumber(value) ? [[name, format(value)]] : [];
}

const data = JSON.parse(document.getElementById("data").textContent);
for (const place of document.querySelectorAll("[data-charts]")) {
  const run = data.runs[Number(place.dataset.charts)];
  showCharts(place, run.kind === "speed" ? speedCharts(run) : rateCharts(run));
}
for (const place of document.querySelectorAll("[data-viewer]")) {
  showViewer(place, data.runs[Number(place.dataset.viewer)], data.pictures);
}
