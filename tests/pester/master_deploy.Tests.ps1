<#
Tests of scripts/master_deploy.ps1 for Pester 5 on Windows: Invoke-Pester tests/pester
Not run here: this project's own tests have no Windows. They only parse this file. In the place of loraloom stands a function
that keeps its arguments; nobody is contacted.
#>

BeforeAll {
    $script:Path = Join-Path -Path $PSScriptRoot -ChildPath '..\..\scripts\master_deploy.ps1'
    function loraloom {
        $script:Given = @($args)
        $global:LASTEXITCODE = 0
    }
    function Invoke-Script {
        param([hashtable]$With)
        Push-Location -Path $TestDrive
        try {
            & $script:Path @With
        }
        finally {
            Pop-Location
        }
    }
}

Describe 'master_deploy.ps1' {
    It 'passes every parameter to loraloom cluster launch' {
        Invoke-Script -With @{
            ConfigFile  = 'run.yaml'
            WorkerIPs   = @('192.0.2.11', '192.0.2.12')
            ProjectPath = 'C:\a b'
            Port        = 29600
            SkipDeploy  = $true
            DryRun      = $true
            More        = @('--cpu')
        }
        $expected = @('cluster', 'launch', '--config', 'run.yaml', '--port', '29600')
        $expected += @('--workers', '192.0.2.11,192.0.2.12', '--project-path', 'C:\a b', '--skip-deploy', '--dry-run', '--cpu')
        $script:Given | Should -Be $expected
    }

    It 'passes a file of workers' {
        Invoke-Script -With @{ ConfigFile = 'run.yaml'; WorkersFile = 'workers.json' }
        $script:Given | Should -Be @('cluster', 'launch', '--config', 'run.yaml', '--port', '29500', '--workers-file', 'workers.json')
    }

    It 'refuses a port that a program may not use' {
        { Invoke-Script -With @{ ConfigFile = 'run.yaml'; Port = 80 } } | Should -Throw
    }

    It 'takes no password' {
        (Get-Command -Name $script:Path).Parameters.Keys -match 'Password|Credential' | Should -BeNullOrEmpty
    }
}
