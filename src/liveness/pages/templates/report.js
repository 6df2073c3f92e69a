// The threshold sliders of the report. Everything that they move is counted anew from the scores; the
// intervals come with the page (upper[n][k]: Clopper and Pearson's upper limit for k errors of n).
"use strict";
(() => {
  const { splits, points } = JSON.parse(document.getElementById("scores").textContent);

  // Python's one decimal: an exact tie (x.25, x.75) goes to the even digit.
  const fixed = (x) => ((4 * x) % 4 === 1 ? x - 0.05 : x).toFixed(1);
  const percent = (rate) => `${fixed(100 * rate)} %`;

  // How many of the ascending scores are below t.
  function below(scores, t) {
    let low = 0, high = scores.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[middle] < t) low = middle + 1; else high = middle;
    }
    return low;
  }

  // Share of a normal distribution below z (Marsaglia's series), and its inverse by halving.
  function share(z) {
    let term = z, sum = z;
    for (let i = 3; i < 200; i += 2) { term *= (z * z) / i; sum += term; }
    return 0.5 + (sum * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
  }
  function deviate(p) {
    let low = -6, high = 6;
    for (let i = 0; i < 40; i++) {
      const middle = (low + high) / 2;
      if (share(middle) < p) low = middle; else high = middle;
    }
    return low;
  }

  function start(panel, { live, attack, upper }) {
    const find = (selector) => panel.querySelector(selector);
    const set = (name, text) => { find(`[data-cell="${name}"]`).textContent = text; };
    const slider = find("input[type=range]"), number = find("input[type=number]");
    const attacks = attack.flatMap(([, scores]) => scores).sort((a, b) => a - b);
    const every = [...new Set([...live, ...attacks])].sort((a, b) => a - b);
    const limits = (k, n) => [1 - upper[n][n - k], upper[n][k]];
    const own = { threshold: Number(panel.dataset.own) };
    const point = (button) => (button.dataset.point === "own" ? own : points[button.dataset.point]);
    let threshold = Number(panel.dataset.start);

    function row(name, errors, total) {
      const [low, high] = limits(errors, total);
      set(`${name}-value`, percent(errors / total));
      set(`${name}-interval`, `${fixed(100 * low)}–${fixed(100 * high)} %`);
      set(`${name}-count`, `${errors} of ${total}`);
    }

    function show() {
      const missed = below(live, threshold), passed = attacks.length - below(attacks, threshold);
      const kinds = attack.map(([name, scores]) => [name, scores.length - below(scores, threshold), scores.length]);
      row("bpcer", missed, live.length);
      kinds.forEach(([, errors, total], i) => row(`species-${i}`, errors, total));
      if (kinds.length > 1) {
        row("pooled", passed, attacks.length);
        const worst = kinds.reduce((a, b) => (b[1] / b[2] > a[1] / a[2] ? b : a));
        set("worst", `${worst[0]}: ${percent(worst[1] / worst[2])}`);
      }
      set("hter", percent((passed / attacks.length + missed / live.length) / 2));
      [live.length - missed, missed, passed, attacks.length - passed].forEach((n, i) => set(`confusion-${i}`, n));
      slider.value = threshold;
      if (document.activeElement !== number) number.value = Number(threshold.toPrecision(6));
      const worst = kinds.length > 1 ? "APCER of the worst species" : "APCER";
      const rate = Math.max(...kinds.map(([, errors, total]) => errors / total));
      slider.setAttribute("aria-valuetext",
        `${Number(threshold.toPrecision(4))}: ${worst} ${percent(rate)}, BPCER ${percent(missed / live.length)}`);
      mark(passed, missed);
      choose();
      document.dispatchEvent(new CustomEvent("threshold", { detail: { split: Number(panel.dataset.split), threshold } }));
    }

    // Which operating point this is, and how many videos prediction would abstain on with it.
    function choose() {
      let text = "";
      panel.querySelectorAll("button[data-point]").forEach((button) => {
        const { threshold: its, between } = point(button), on = its === threshold;
        button.setAttribute("aria-pressed", String(on));
        if (on && between && between[0] !== null && between[1] !== null) {
          const [low, high] = between;
          const inside = [...live, ...attacks].filter((score) => score > low && score < high).length;
          text = `With this point prediction abstains between ${Number(low.toPrecision(4))} and ${Number(high.toPrecision(4))}: `
            + `${inside} of these ${live.length + attacks.length} videos.`;
        }
      });
      set("abstain", text);
    }

    function mark(passed, missed) {
      const rates = [passed / attacks.length, missed / live.length];
      const reach = [limits(passed, attacks.length), limits(missed, live.length)];
      panel.querySelectorAll("svg[data-plot]").forEach((plot) => {
        const [left, top, right, bottom] = plot.dataset.box.split(" ").map(Number);
        const group = plot.querySelector("[data-mark]");
        group.setAttribute("visibility", "visible");
        const across = (share) => left + Math.min(1, Math.max(0, share)) * (right - left);
        const up = (share) => bottom - Math.min(1, Math.max(0, share)) * (bottom - top);
        if (plot.dataset.plot === "histogram") {
          group.setAttribute("transform", `translate(${across(threshold) - left} 0)`);
          return;
        }
        let x = across, y = (rate) => up(1 - rate);
        if (plot.dataset.plot === "det") {
          const [low, high] = plot.dataset.range.split(" ").map(Number);
          const ends = [deviate(low), deviate(high)];
          const place = (rate) => (deviate(Math.min(high, Math.max(low, rate))) - ends[0]) / (ends[1] - ends[0]);
          x = (rate) => across(place(rate));
          y = (rate) => up(place(rate));
        }
        const at = [x(rates[0]), y(rates[1])];
        group.querySelector("[data-across]").setAttribute("d", `M${x(reach[0][0])} ${at[1]}H${x(reach[0][1])}`);
        group.querySelector("[data-down]").setAttribute("d", `M${at[0]} ${y(reach[1][0])}V${y(reach[1][1])}`);
        group.querySelector("circle").setAttribute("cx", at[0]);
        group.querySelector("circle").setAttribute("cy", at[1]);
      });
    }

    function move(value) {
      if (Number.isFinite(value)) { threshold = value; show(); }
    }

    // One score further: midway to the next one, so that exactly that score changes sides.
    function step(direction) {
      const place = below(every, threshold);
      const edge = place + direction;
      if (edge < 0 || edge > every.length) return;
      if (edge === 0) move(every[0]);
      else if (edge === every.length) move(every[edge - 1] + 1e-6);
      else move((every[edge - 1] + every[edge]) / 2);
    }

    slider.addEventListener("input", () => move(Number(slider.value)));
    number.addEventListener("input", () => { if (number.value !== "") move(Number(number.value)); });
    number.addEventListener("blur", show);
    panel.querySelectorAll("button[data-point]").forEach((button) =>
      button.addEventListener("click", () => move(point(button).threshold)));
    panel.querySelectorAll("button[data-step]").forEach((button) =>
      button.addEventListener("click", () => step(Number(button.dataset.step))));
    panel.querySelectorAll(".controls").forEach((part) => { part.hidden = false; });
    show();
  }

  // After the other scripts of the page, which listen.
  setTimeout(() => document.querySelectorAll("[data-split]").forEach((panel) => start(panel, splits[panel.dataset.split])));

  // Paper cannot unfold.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
