// Nodes that take any number of models, masks, gradients or LoRAs show the sockets in use and one more.
//
// The server knows every socket (mask_1 … mask_16), so workflows stay plain: a prompt names the sockets it uses.
import { app } from "../../scripts/app.js"

const NUMBERED = /^(.+)_(\d+)$/

/** Stem of a numbered socket → { type, least: how many must be there, most }. */
function growingInputs(nodeData) {
  const groups = new Map()
  for (const kind of ["required", "optional"]) {
    for (const [name, [type]] of Object.entries(nodeData.input?.[kind] ?? {})) {
      const found = NUMBERED.exec(name)
      if (!found || typeof type !== "string" || type !== type.toUpperCase()) continue
      const group = groups.get(found[1]) ?? { type, least: 1, most: 0 }
      group.most = Math.max(group.most, Number(found[2]))
      if (kind === "required") group.least = Math.max(group.least, Number(found[2]))
      groups.set(found[1], group)
    }
  }
  return new Map([...groups].filter(([, group]) => group.most > 4))
}

function fit(node, groups) {
  for (const [stem, { type, least, most }] of groups) {
    const slots = () => node.inputs.filter((input) => NUMBERED.exec(input.name)?.[1] === stem)
    const numberOf = (input) => Number(NUMBERED.exec(input.name)[2])
    const last = Math.max(0, ...slots().filter((input) => input.link != null).map(numberOf))
    const wanted = Math.min(most, Math.max(least, last + 1))
    for (const input of slots().filter((input) => numberOf(input) > wanted)) {
      node.removeInput(node.inputs.indexOf(input))
    }
    const present = new Set(slots().map(numberOf))
    for (let number = 1; number <= wanted; number++) {
      if (!present.has(number)) node.addInput(`${stem}_${number}`, type)
    }
  }
  const [width, height] = node.computeSize()
  node.setSize([Math.max(width, node.size[0]), height])
  node.setDirtyCanvas(true, true)
}

/** Runs `then` after a method of a node type, if it has that method already. */
function after(nodeType, method, then) {
  const before = nodeType.prototype[method]
  nodeType.prototype[method] = function (...args) {
    const result = before?.apply(this, args)
    then.call(this, ...args)
    return result
  }
}

app.registerExtension({
  name: "daremerge.growing-inputs",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("daremerge.")) return
    const groups = growingInputs(nodeData)
    if (groups.size === 0) return
    const refit = function () {
      // While a workflow loads, links come and go; the node is fitted once it is whole.
      if (!app.configuringGraph) fit(this, groups)
    }
    after(nodeType, "onNodeCreated", refit)
    after(nodeType, "onConnectionsChange", refit)
    after(nodeType, "onConfigure", function () {
      fit(this, groups)
    })
  },
})
