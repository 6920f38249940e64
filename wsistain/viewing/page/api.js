// Where the data come from: the server that has the token, or files beside the page.

export const isStatic = document.querySelector('meta[name="wsistain"]').content === "static";
const base = new URL(".", document.baseURI);
const token = new URLSearchParams(location.search).get("token") || "";

/** The address of something below the page, with the token where there is a server. */
export function address(path, version) {
  const url = new URL(path, base);
  if (!isStatic) {
    if (version) url.searchParams.set("v", version);
    url.searchParams.set("token", token);
  }
  return url.href;
}

async function read(answer) {
  if (!answer.ok) {
    const said = (await answer.text()).slice(0, 600);
    let sentence = said;
    try { sentence = JSON.parse(said).error || said; } catch { /* plain text */ }
    throw new Error(sentence || `the server answered ${answer.status}`);
  }
  return answer.json();
}

/** The JSON under a path. Throws an Error with one sentence. */
export const getJson = (path) => fetch(address(path)).then(read);

/** What the server makes of a JSON value. */
export const postJson = (path, value) =>
  fetch(address(path), { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) }).then(read);

/** All that is shown. */
export const listing = () => getJson(isStatic ? "api/results.json" : "api/results");
