"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
const rows = [...main.children];
let order = rows;
const sort = document.getElementById("sort");
const show = document.getElementById("show");
const KEYS = { p: "pass", l: "look again", f: "fail", u: "" };
const KEPT = "sesegment marks " + location.pathname;
let current = null;
let unsaved = false;

const scanOf = (row) => data.scans[row.dataset.index];
// a mark is of one result: it does not hold for what the same scan gives another time
const resultOf = (scan) => [scan.place, scan.model.name, scan.date].join(" ");
const shown = () => order.filter((row) => !row.hidden);

function setMark(row, mark) {
  if (mark) row.dataset.mark = mark;
  else delete row.dataset.mark;
  for (const button of row.querySelectorAll(".marks button")) button.ariaPressed = String(button.value === mark);
}

function changed() {
  const count = rows.filter((row) => row.dataset.mark).length;
  document.getElementById("count").value = `${count} of ${rows.length} marked${unsaved ? ", not saved" : ""}`;
}

function keep() {
  const marks = rows.map((row) => [resultOf(scanOf(row)), row.dataset.mark ?? ""]);
  try {
    localStorage.setItem(KEPT, JSON.stringify({ marks, unsaved }));
  } catch { /* a browser that keeps nothing: marks last as long as the page is open */ }
  changed();
}

function restore() {
  for (const row of rows) setMark(row, scanOf(row).mark ?? "");
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    const marks = new Map(kept.marks);
    for (const row of rows) {
      const mark = marks.get(resultOf(scanOf(row)));
      if (mark === "" || data.marks.includes(mark)) setMark(row, mark);
    }
    unsaved = kept.unsaved === true;
  } catch { /* nothing was kept */ }
  changed();
}

function go(row) {
  if (!row) return;
  current?.removeAttribute("aria-current");
  current = row;
  row.setAttribute("aria-current", "true");
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const list = shown();
  const at = list.indexOf(current);
  go(at < 0 ? list[0] : list[Math.min(Math.max(at + by, 0), list.length - 1)]);
}

function give(row, mark) {
  setMark(row, mark);
  unsaved = true;
  keep();
}

function arrange() {
  const by = sort.value;
  const first = (row) => Number(row.dataset.order);
  const compare = {
    order: (a, b) => first(a) - first(b),
    name: (a, b) => scanOf(a).name.localeCompare(scanOf(b).name, "en", { numeric: true }),
    outliers: (a, b) => b.dataset.outliers - a.dataset.outliers || first(a) - first(b),
    warnings: (a, b) => b.dataset.warnings - a.dataset.warnings || first(a) - first(b),
  }[by];
  order = [...rows].sort(compare);
  for (const [place, row] of order.entries()) {
    row.style.order = place; // to move a thousand rows in the document would take seconds
    const mark = row.dataset.mark ?? "";
    row.hidden = show.value === "unmarked" ? mark !== "" : show.value !== "" && mark !== show.value;
  }
  go(shown()[0]);
}

function save() {
  const scans = rows.filter((row) => row.dataset.mark).map((row) => {
    const { name, sha256, model, date } = scanOf(row);
    return { name, sha256, model: model.name, version: model.version, date, mark: row.dataset.mark };
  });
  const content = { format: data.format, saved: new Date().toISOString(), scans };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  keep();
}

async function open(file) {
  let entries;
  try {
    const content = JSON.parse(await file.text());
    if (content.format !== data.format) throw new Error();
    entries = new Map(content.scans.map((scan) => [[scan.sha256 ?? scan.name, scan.model, scan.date].join(" "), scan.mark]));
  } catch {
    alert(`${file.name} holds no marks of such a sheet.`);
    return;
  }
  for (const row of rows) {
    const { name, sha256, model, date } = scanOf(row);
    const mark = entries.get([sha256 ?? name, model.name, date].join(" "));
    if (data.marks.includes(mark)) setMark(row, mark);
  }
  keep();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const key = event.key.toLowerCase();
  if (key in KEYS && current && !current.hidden) {
    const after = shown();
    const next = after[after.indexOf(current) + 1];
    give(current, KEYS[key]);
    if (KEYS[key]) go(next);
  } else if (key === "j" || key === "arrowdown") step(1);
  else if (key === "k" || key === "arrowup") step(-1);
  else if (key === "z") current?.classList.toggle("large");
  else if (key === "s") save();
  else return;
  event.preventDefault();
});
main.addEventListener("click", (event) => {
  const row = event.target.closest(".scan");
  if (!row) return;
  go(row);
  if (event.target.matches(".marks button")) give(row, row.dataset.mark === event.target.value ? "" : event.target.value);
  else if (event.target.matches("img")) row.classList.toggle("large");
});
sort.addEventListener("change", arrange);
show.addEventListener("change", arrange);
document.getElementById("save").addEventListener("click", save);
document.getElementById("open").addEventListener("change", async (event) => {
  if (event.target.files[0]) await open(event.target.files[0]);
  event.target.value = "";
});
addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});

// pictures are decoded when their row comes near
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      target.src = "data:image/webp;base64," + scanOf(target.parentElement).picture;
    }
  },
  { rootMargin: "1500px 0px" },
);
for (const image of document.querySelectorAll(".scan > img")) near.observe(image);

restore();
go(rows[0]);
