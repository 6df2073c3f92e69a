"use strict";
/* Shows /openapi.json. */
function make(name, text) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  return node;
}

function table(title, head, rows) {
  const region = make("div");
  region.className = "scroll";
  region.tabIndex = 0;
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", title);
  const made = make("table");
  made.append(make("caption", title));
  const cells = (names, kind) => {
    const row = make("tr");
    row.append(...names.map((name, place) => make(place ? kind : "th", name)));
    return row;
  };
  const top = make("thead");
  top.append(cells(head, "th"));
  const body = make("tbody");
  body.append(...rows.map((row) => cells(row, "td")));
  made.append(top, body);
  region.append(made);
  return region;
}

function kindOf(schema) {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.join(", ");
  const kind = [].concat(schema.type || "object").join(" or ");
  return schema.items ? `${kind} of ${kindOf(schema.items)}` : kind;
}

function fieldsOf(schema, before) {
  return Object.entries(schema.properties || {}).flatMap(([name, part]) => {
    const inner = part.items || part;
    return [[before + name, kindOf(part), part.description || ""], ...fieldsOf(inner, `${before + name}${part.items ? "[]" : ""}.`)];
  });
}

async function showPaths() {
  const api = await (await fetch("/openapi.json")).json();
  const resolve = (part) => part.$ref ? part.$ref.slice(2).split("/").reduce((at, key) => at[key], api) : part;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const part = make("section");
      part.append(make("h2", `${method.toUpperCase()} ${path}`), make("p", about.summary), make("p", about.description || ""));
      const asked = (about.parameters || []).map((one) => [one.name, one.in, one.description]);
      if (asked.length) part.append(table("Parameters", ["Name", "Where", "Meaning"], asked));
      part.append(table("Answers", ["Status", "Meaning"], Object.entries(about.responses).map(([status, one]) => [status, resolve(one).description])));
      document.getElementById("paths").append(part);
    }
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const part = make("section");
    part.append(make("h2", name), make("p", schema.description), table(`Fields of ${name}`, ["Field", "Kind", "Meaning"], fieldsOf(schema, "")));
    document.getElementById("paths").append(part);
  }
}

showPaths();
