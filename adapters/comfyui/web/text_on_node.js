// Nodes that have something to say (reports, saved files, recipes) show it on themselves once they have run.
import { app } from "../../scripts/app.js"
import { ComfyWidgets } from "../../scripts/widgets.js"

const NAME = "said"

const LINE = 13
const LINES = 16
const PICTURE = 320

function show(node, text, hasPicture) {
  let widget = node.widgets?.find((one) => one.name === NAME)
  if (!widget) {
    widget = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app).widget
    widget.options.serialize = false // neither into the prompt
    widget.serialize = false // nor into the saved workflow
    if (widget.inputEl) {
      widget.inputEl.readOnly = true
      widget.inputEl.style.fontFamily = "monospace"
      widget.inputEl.style.whiteSpace = "pre"
      widget.inputEl.style.fontSize = "11px"
    }
    // Of its own it would be a socket too: nothing is to be connected to it.
    const slot = node.inputs?.findIndex((input) => input.widget?.name === NAME) ?? -1
    if (slot >= 0) node.removeInput(slot)
  }
  widget.value = text
  const height = Math.min(text.split("\n").length + 1, LINES) * LINE
  widget.options.getMinHeight = () => height
  const [width, least] = node.computeSize()
  node.setSize([
    Math.max(node.size[0], width, 460),
    Math.max(node.size[1], least + (hasPicture ? PICTURE : 0)),
  ])
  node.setDirtyCanvas(true, true)
}

app.registerExtension({
  name: "daremerge.text-on-node",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("daremerge.") || !nodeData.output_node) return
    const before = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (message) {
      before?.apply(this, arguments)
      const text = message?.text
      if (text) show(this, Array.isArray(text) ? text.join("") : String(text), Boolean(message.images?.length))
    }
  },
})
