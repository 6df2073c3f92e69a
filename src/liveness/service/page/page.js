"use strict";
/* The page to try the service: a file or three seconds of the camera go to POST /score, and the answer is shown. */
const SECONDS = 3;
const STEPS = ["Look straight into the camera", "Hold still", "Turn your head a little"];
const LONGEST = 120; // seconds that an answer is waited for
const find = (id) => document.getElementById(id);
let stream = null;
let busy = false;

function show(node, visible) { node.hidden = !visible; }

function make(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function say(text, kind, more) {
  find("status").replaceChildren(make("p", text, kind ? `verdict ${kind}` : ""), ...(more || []).map((line) => make("p", line)));
}

/* --- asking --- */

async function score(blob, what) {
  if (busy) return;
  busy = true;
  setButtons();
  show(find("details"), false);
  say(`Scoring ${what} …`);
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const token = find("token").value.trim();
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch("/score?pictures=1", { method: "POST", body: blob, headers, signal: AbortSignal.timeout(1000 * LONGEST) });
    const row = await answer.json();
    if (answer.ok) await showRow(row);
    else showError(row, answer);
  } catch (error) {
    const late = error.name === "TimeoutError";
    say("No answer", "error", [late ? `The service gave none within ${LONGEST} seconds.` : "The service cannot be reached. Is it still running?"]);
  } finally {
    busy = false;
    setButtons();
    find("result-title").focus();
  }
}

function showError(row, answer) {
  const lines = [row.reason];
  if (answer.status === 401) {
    find("token-part").open = true;
    lines.push("Enter the token above and try again.");
  }
  if (answer.headers.has("Retry-After")) lines.push(`Try again in ${answer.headers.get("Retry-After")} seconds.`);
  say("Not scored", "error", lines);
}

/* --- showing --- */

const WORDS = { live: "Live", attack: "Attack", abstain: "No decision" };

async function showRow(row) {
  const by = row.threshold;
  const lines = [`Score ${row.score.toFixed(3)} (1 is live); the threshold is ${by.value.toFixed(3)}` +
    (by.low < by.high ? `, known to lie from ${by.low.toFixed(3)} to ${by.high.toFixed(3)}.` : ".")];
  if (row.decision === "abstain" && row.status !== "no_face") lines.push(whyOpen(row)); // else its reason says so
  if (row.reason) lines.push(row.reason);
  say(WORDS[row.decision], row.decision, lines);
  drawBar(row);
  find("hint-list").replaceChildren(...row.hints.map((hint) => make("li", hint.text)));
  show(find("hints"), row.hints.length > 0);
  show(find("details"), true);
  find("frames").replaceChildren(...await Promise.all(row.used.map(drawFrame)));
  find("members").replaceChildren(...row.members.map(memberRow));
  showFacts(row);
}

function whyOpen(row) {
  const inside = row.threshold.low < row.score && row.score < row.threshold.high;
  return inside ? "The score lies within the interval of the threshold." : "The clip shows too little, or it lies outside of what the scores are known for.";
}

function drawBar(row) {
  const { value, low, high } = row.threshold;
  const at = (score) => 20 + 360 * Math.min(1, Math.max(0, score));
  const part = (name, values, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, given] of Object.entries(values)) node.setAttribute(key, given);
    if (text) node.textContent = text;
    return node;
  };
  find("bar").replaceChildren(
    part("rect", { x: 20, y: 24, width: 360, height: 12, rx: 3, class: "rail" }),
    part("rect", { x: at(low), y: 24, width: Math.max(0, at(high) - at(low)), height: 12, class: "open" }),
    part("line", { x1: at(value), x2: at(value), y1: 18, y2: 42, class: "at" }),
    part("circle", { cx: at(row.score), cy: 30, r: 9, class: "score" }),
    part("text", { x: 20, y: 58 }, "0 attack"),
    part("text", { x: 380, y: 58, "text-anchor": "end" }, "live 1"),
    part("text", { x: at(value), y: 13, "text-anchor": "middle" }, "threshold"));
  const text = `The score ${row.score.toFixed(3)} on the scale from 0 (attack) to 1 (live). The line is the threshold ${value.toFixed(3)}; ` +
    `the coloured part, from ${low.toFixed(3)} to ${high.toFixed(3)}, is where it may lie (95 %).`;
  find("bar").setAttribute("aria-label", text);
  find("bar-text").textContent = text;
}

async function drawFrame(frame) {
  const item = make("li");
  const canvas = make("canvas");
  const image = new Image();
  image.src = frame.picture;
  await image.decode();
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.setAttribute("role", "img");
  const others = frame.other_faces.length;
  canvas.setAttribute("aria-label", `Frame at ${frame.seconds.toFixed(2)} seconds, ${frame.face ? "the face marked" : "no face"}${others ? `, ${others} other faces` : ""}`);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const scale = image.naturalWidth / frame.width;
  const mark = (box, colour, dashes) => {
    const [x, y, w, h] = box.map((value) => value * scale);
    pen.setLineDash([]);
    pen.lineWidth = 5;
    pen.strokeStyle = "#000";
    pen.strokeRect(x, y, w, h);
    pen.setLineDash(dashes);
    pen.lineWidth = 3;
    pen.strokeStyle = colour;
    pen.strokeRect(x, y, w, h);
  };
  for (const box of frame.other_faces) mark(box, "#ffd24a", [8, 6]);
  if (frame.face) mark(frame.face, "#6cff8f", []);
  const face = frame.face ? `face ${Math.round(frame.face[2])} px wide` : "no face";
  item.append(canvas, make("span", `${frame.seconds.toFixed(2)} s, ${face}`, "soft"));
  return item;
}

function memberRow(member) {
  const row = make("tr");
  const name = make("th", member.name);
  name.scope = "row";
  row.append(name);
  for (const score of [member.score, member.uncalibrated]) row.append(make("td", score === null ? "–" : score.toFixed(3), "num"));
  return row;
}

function showFacts(row) {
  const facts = [["Status", row.status], ["Frames decoded", row.frames], ["Frames with a face", row.faces === null ? "–" : row.faces],
    ["Milliseconds", Math.round(row.milliseconds)], ["Ensemble", row.ensemble], ["Operating point", row.threshold.point || "–"], ["Threshold's origin", row.threshold.source]];
  find("facts").replaceChildren(...facts.map(([name, value]) => {
    const part = make("div", undefined, String(value).length > 24 ? "long" : "");
    part.append(make("dt", name), make("dd", String(value)));
    return part;
  }));
}

/* --- a file --- */

function setUpFile() {
  const drop = find("drop");
  find("file").addEventListener("change", () => {
    const file = find("file").files[0];
    if (file) score(file, "the file");
    find("file").value = ""; // the same file may be chosen again
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = event.dataTransfer.files;
    if (files.length === 1) score(files[0], "the file");
    else say("One file at a time, please", "error");
  });
}

/* --- the camera --- */

function setButtons() {
  const open = stream !== null;
  show(find("camera"), !open);
  show(find("record"), open);
  show(find("stop"), open);
  show(find("stage"), open);
  for (const id of ["camera", "record", "file"]) find(id).disabled = busy;
}

function setUpCamera() {
  const usable = window.isSecureContext && navigator.mediaDevices && window.MediaRecorder;
  find("camera").disabled = !usable;
  if (!usable) {
    find("camera-note").textContent = "The browser gives the camera only to https pages and to this very machine (http://127.0.0.1). " +
      "On a phone, start the service with --certificate and --key, or record with the phone's camera and choose the file.";
    return;
  }
  find("camera").addEventListener("click", openCamera);
  find("record").addEventListener("click", record);
  find("stop").addEventListener("click", closeCamera);
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } } });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    find("camera-note").textContent = denied ? "The camera was not allowed; allow it in the browser's settings for this page." : "No camera can be opened here.";
    return;
  }
  find("preview").srcObject = stream;
  find("guide").textContent = "Bring your face into the oval, in good light";
  setButtons();
  await find("preview").play();
  find("record").focus();
}

function closeCamera() {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  find("preview").srcObject = null;
  setButtons();
}

async function record() {
  if (busy) return;
  const kind = ["video/webm;codecs=vp8", "video/webm", "video/mp4"].find((name) => MediaRecorder.isTypeSupported(name));
  const recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: 4e6 });
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  find("record").disabled = true;
  find("stop").disabled = true;
  const started = new Promise((resolve) => recorder.addEventListener("start", resolve, { once: true }));
  recorder.start();
  await started;
  for (const [done, step] of STEPS.entries()) {
    find("guide").textContent = `${step} (${SECONDS - done})`;
    await new Promise((resolve) => setTimeout(resolve, 1000 * SECONDS / STEPS.length));
  }
  recorder.stop();
  await stopped;
  find("stop").disabled = false;
  find("guide").textContent = "Recorded; the camera can be closed";
  await score(new Blob(parts, { type: kind }), "the recording");
}

find("token-form").addEventListener("submit", (event) => event.preventDefault());
setUpFile();
setUpCamera();
