{{- define "stateline.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "stateline.labels" -}}
app.kubernetes.io/name: stateline
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
