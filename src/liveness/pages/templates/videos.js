// The table of all videos and the cards of the worst ones; both follow the first threshold slider (report.js tells it).
(() => {
  const { columns, rows, file } = JSON.parse(document.getElementById("scores").textContent).table;
  const PAGE = 50, LEAST_WORST = 6;
  const place = Object.fromEntries(columns.map(([key], i) => [key, i]));
  const find = (name) => document.querySelector(`[data-videos="${name}"]`);
  const all = find("all"), body = all.querySelector("tbody");
  const search = all.querySelector("input"), which = all.querySelector("select");
  const text = rows.map((row) => row.filter((value) => value !== null).join("\n").toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });
  let threshold = 0, order = rows.map((_, i) => i), shown = order, page = 0, sorted = null, down = false, due = false;

  // What the threshold makes of a video: "right", "wrong", or "" where it has no score.
  function judge(row) {
    const score = row[place.score];
    if (score === null || score === undefined) return "";
    return (score >= threshold) === (row[place.label] === 1) ? "right" : "wrong";
  }

  const kinds = {
    all: () => true,
    wrong: (row) => judge(row) === "wrong",
    passed: (row) => row[place.label] === 0 && judge(row) === "wrong",
    missed: (row) => row[place.label] === 1 && judge(row) === "wrong",
    silent: (row) => judge(row) === "",
  };

  function write(value, [key, , digits]) {
    if (value === null) return "–";
    if (key === "label") return value === 1 ? "live" : "attack";
    return digits === null ? String(value) : value.toFixed(digits);
  }

  function add(parent, tag, content, name) {
    const cell = parent.appendChild(document.createElement(tag));
    cell.textContent = content;
    if (name) cell.className = name;
    return cell;
  }

  function draw() {
    const wanted = search.value.trim().toLowerCase(), kind = kinds[which.value];
    shown = order.filter((i) => (!wanted || text[i].includes(wanted)) && kind(rows[i]));
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const line = document.createElement("tr");
      rows[i].forEach((value, k) => {
        const cell = add(line, k ? "td" : "th", "", columns[k][2] === null ? "" : "num");
        if (!k) { cell.scope = "row"; cell.className = "name"; }
        add(cell, "bdi", write(value, columns[k]));
        if (k === place.score) add(line, "td", judge(rows[i]) || "no score", judge(rows[i]) === "wrong" ? "bad" : "");
      });
      return line;
    }));
    const first = page * PAGE + 1, last = Math.min(first + PAGE - 1, shown.length);
    find("count").textContent = shown.length
      ? `${first} to ${last} of ${shown.length}${shown.length < rows.length ? ` (${rows.length} in all)` : ""}`
      : `none of ${rows.length}`;
    all.querySelectorAll("[data-page]").forEach((button) => {
      button.disabled = Number(button.dataset.page) < 0 ? page === 0 : page === pages - 1;
      button.parentElement.hidden = pages === 1;
    });
  }

  // Equal values stay in the order of the videos; what is not known comes last either way.
  function compare(i, k) {
    const a = rows[i][sorted], b = rows[k][sorted];
    if (a === null || b === null) return (a === null) - (b === null) || i - k;
    const by = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
    return (down ? -by : by) || i - k;
  }

  function sort(column, button) {
    down = sorted === column && !down;
    sorted = column;
    order.sort(compare);
    all.querySelectorAll("thead th").forEach((head) => head.setAttribute("aria-sort", "none"));
    button.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    page = 0;
    draw();
  }

  // The videos shown, in their order, with the label as 1 and 0 and every digit that there is.
  function save() {
    const quote = (value) => {
      const cell = value === null ? "" : String(value);
      return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
    };
    const lines = [columns.map(([key]) => key), ...shown.map((i) => rows[i])];
    const content = lines.map((line) => line.map(quote).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Of the cards of a class those that are wrong, and the first few in any case.
  function follow() {
    for (const label of ["attack", "live"]) {
      const wrong = (score) => (score >= threshold) !== (label === "live");
      document.querySelectorAll(`[data-worst-label="${label}"]`).forEach((card, i) => {
        const bad = wrong(Number(card.dataset.score));
        card.querySelector("[data-wrong]").hidden = !bad;
        card.hidden = !bad && i >= LEAST_WORST;
      });
      const count = rows.filter((row) => row[place.label] === Number(label === "live") && judge(row) === "wrong").length;
      document.querySelector(`[data-worst="${label}"]`).textContent = `(${count} wrong)`;
    }
    document.querySelector('[data-worst="threshold"]').textContent = Number(threshold.toPrecision(4));
  }

  document.addEventListener("threshold", ({ detail }) => {
    if (detail.split !== 0) return;
    threshold = detail.threshold;
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; follow(); draw(); });
  });
  search.addEventListener("input", () => { page = 0; draw(); });
  which.addEventListener("change", () => { page = 0; draw(); });
  find("csv").addEventListener("click", save);
  all.querySelectorAll("[data-sort]").forEach((button) =>
    button.addEventListener("click", () => sort(Number(button.dataset.sort), button)));
  all.querySelectorAll("[data-page]").forEach((button) =>
    button.addEventListener("click", () => { page += Number(button.dataset.page); draw(); }));
  find("without").hidden = true;
  all.hidden = false;
  draw();
})();
